/* foreign_free.pml: a thread's cache is emptied by another thread only while its owner is outside, whatever the owner's processor
   has not written yet; blocks freed elsewhere, and a cache whose owner ends, lose and double none (src/freehold/core/caches.py: claiming).

   spin -a foreign_free.pml && gcc -O2 -DSAFETY -o pan pan.c && ./pan -m100000             the protocol: errors: 0
   spin -a -DNO_BARRIER foreign_free.pml && gcc -O2 -DSAFETY -o pan pan.c && ./pan         without membarrier: an error
   spin -a -DNO_LOOK foreign_free.pml && gcc -O2 -DSAFETY -o pan pan.c && ./pan            owner does not look at `claimed`: an error
   spin -a -DONE_LOOK foreign_free.pml && gcc -O2 -DSAFETY -o pan pan.c && ./pan           claimer looks only before it shuts: an error

   A hit reads the bin's count, and then only whether the bin is shut. The slow path reads whether the cache is claimed, and opens
   the bin. The claimer claims, looks, shuts, looks again.

   The owner's plain stores (its thread-local pointer, the count of a bin) wait in a buffer, in order, and reach the others at any
   later time; it sees its own at once. A barrier that the claimer imposes, and every locked instruction of the owner, empties it.
   Blocks: `region` free in the region, `count` in the owner's cache, `live` with callers. A third thread frees live ones, which
   go to the region: its own cache is another one. Laws: owner and claimer are never both inside; at the end every block is
   somewhere, once. */

#define BLOCKS 3
#define USES   3    /* of its cache by the owner */
#define CLAIMS 2

#define HERE  0     /* kinds of stores */
#define COUNT 1
#define OPEN  2

chan stores = [6] of { byte, byte };    /* the owner's store buffer */
bool here = true;           /* the owner's pointer, as the others see it: false: `nobody` */
byte count = 0;             /* Bin.word, as the others see it */
byte newest = 0;            /* … as the owner does */
byte unwritten = 0;         /* ghost: counts in the buffer */
bool claimed = false;
bool shut = true;           /* the bin, as the others see it; the owner sees it open where `opening` */
byte opening = 0;           /* ghost: OPENs in the buffer */
bool lock = false;          /* the caches' lock */
bool listed = true;         /* the cache is in the list; guarded by the lock */
byte region = BLOCKS;       /* guarded by the region's lock: each change is one step */
byte live = 0;              /* ghost */
bool owner_inside = false;  /* ghost */
bool claimer_inside = false;
byte done = 0;

inline flush_one() {
    byte kind, value;
    stores ? kind, value;
    if
    :: kind == HERE -> here = value
    :: kind == OPEN -> shut = false; opening--
    :: else -> count = value; unwritten--
    fi
}
inline store_count(n) {
    atomic { stores ! COUNT, n; unwritten++ }
}
inline read_count() {          /* which a claimer may have changed */
    atomic {
        if
        :: unwritten == 0 -> newest = count
        :: else
        fi
    }
}
inline flush_all() {
    do
    :: len(stores) > 0 -> flush_one()
    :: len(stores) == 0 -> break
    od
}

active proctype Buffer() {     /* stores reach memory whenever they like */
    do
    :: atomic { len(stores) > 0 -> flush_one() }
    :: done == 3 && len(stores) == 0 -> break
    od
}

active proctype Owner() {
    byte uses = 0;
    do
    :: uses < USES ->
        uses++;
        stores ! HERE, false;                       /* enter */
        read_count();
        if
        :: atomic { opening > 0 || !shut -> owner_inside = true; assert(!claimer_inside) }     /* a hit, if there is a block */
        :: atomic { opening == 0 && shut -> skip };
            stores ! HERE, true;                    /* leave; the slow path enters again */
            stores ! HERE, false;
#ifndef NO_LOOK
            if
            :: claimed -> stores ! HERE, true; goto next    /* leave, and wait until it is not */
            :: else
            fi;
#endif
            atomic { owner_inside = true; assert(!claimer_inside) };
            read_count();
            atomic { stores ! OPEN, 0; opening++ }
        fi;
            if
            :: newest > 0 -> store_count(newest - 1); atomic { newest--; live++ }       /* a hit */
            :: newest == 0 ->                                                           /* a refill: a locked instruction */
                atomic {
                    flush_all();
                    if
                    :: region > 0 -> region--; newest = 1
                    :: else
                    fi
                };
                store_count(newest)
            :: newest < BLOCKS ->                                                       /* a free */
                atomic {
                    if
                    :: live > 0 -> live--; newest++
                    :: else
                    fi
                };
                store_count(newest)
            fi;
            atomic { assert(!claimer_inside); owner_inside = false };
            stores ! HERE, true;                    /* leave */
next:   skip
    :: uses == USES -> break
    od;
    stores ! HERE, false;                           /* the thread ends: it has no cache from here on … */
    atomic { !lock -> flush_all(); lock = true };
    atomic { assert(!claimer_inside); listed = false; region = region + count; count = 0; newest = 0 };
    lock = false;                                   /* … and neither has anybody else */
    done++
}

active proctype Claimer() {
    byte claims = 0;
    do
    :: claims < CLAIMS ->
        claims++;
        atomic { !lock -> lock = true };
        if
        :: listed ->
            claimed = true;
#ifndef NO_BARRIER
            atomic { flush_all() };                 /* membarrier */
#endif
            if
            :: here ->
                shut = true;
#ifndef ONE_LOOK
#ifndef NO_BARRIER
                atomic { flush_all() };
#endif
                if
                :: !here -> goto unclaim            /* a hit that began before */
                :: else
                fi;
#endif
                atomic { claimer_inside = true; assert(!owner_inside && listed) };
                region = region + count;            /* empty it */
                count = 0;
                atomic { assert(!owner_inside); claimer_inside = false }
            :: else                                 /* inside, or in the midst of ending: another time */
            fi;
unclaim:    claimed = false
        :: else
        fi;
        lock = false
    :: claims == CLAIMS -> break
    od;
    done++
}

active proctype Stranger() {                        /* frees what the owner allocated */
    byte frees = 0;
    do
    :: frees < 2 -> frees++;
        if
        :: atomic { live > 0 -> live--; region++ }
        :: skip
        fi
    :: frees == 2 -> break
    od;
    done++;
    done == 3 && len(stores) == 0;
    assert(region + count + live == BLOCKS)
}
