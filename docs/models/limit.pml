/* limit.pml: no race passes a heap's limit, also while it is being lowered (src/freehold/core/budget.py).

   spin -a limit.pml && gcc -O2 -DSAFETY -o pan pan.c && ./pan            the protocol: errors: 0
   spin -a -DNO_SECOND_LOOK limit.pml && gcc -O2 -DSAFETY -o pan pan.c && ./pan    without the second look: an error
   spin -a -DBUFFERED limit.pml && gcc -O2 -DSAFETY -o pan pan.c && ./pan          plain stores for the limit: an error

   TAKERS take SHARE each from the budget and then own it (what they will make resident), or are refused; each may give it back.
   One thread lowers the limit from HIGH to LOW, and either is told yes, and from then on relies on it, or puts it back.
   Law: what is owned is never above the limit that holds; once `lowered`, never above LOW.

   Each atomic operation is one step, in one order for all: sequentially consistent. BUFFERED lets the setter's store of the limit
   reach the others later than its reading of what is used, which plain or releasing stores allow (a store buffer). */

#define TAKERS 3
#define SHARE  2
#define HIGH   6
#define LOW    3

byte used = 0;      /* Budget.used */
byte limit = HIGH;  /* Budget.limit, as the others see it */
byte owned = 0;     /* ghost: what takers were told they have */
bool lowered = false;

#define LAW assert(owned <= HIGH && (!lowered || owned <= LOW))

proctype Taker() {
    byte seen, most;
    bool has = false;
    do
    :: !has ->
        seen = used;                                        /* load */
again:  most = limit;                                       /* load */
        if
        :: seen + SHARE > most -> goto refused
        :: else
        fi;
        atomic {                                            /* compare and swap */
            if
            :: used == seen -> used = seen + SHARE
            :: else -> seen = used; goto again
            fi
        }
#ifndef NO_SECOND_LOOK
        most = limit;                                       /* the second look */
        if
        :: seen + SHARE > most -> atomic { used = used - SHARE; goto refused }
        :: else
        fi;
#endif
        atomic { has = true; owned = owned + SHARE; LAW }
    :: has -> atomic { has = false; owned = owned - SHARE }; used = used - SHARE
    :: break
refused: skip
    od
}

proctype Setter() {
    byte seen;
#ifdef BUFFERED
    bool stored = false;
    if
    :: limit = LOW; stored = true
    :: skip                                                 /* the store waits in the buffer */
    fi;
    seen = used;
    if
    :: !stored -> limit = LOW
    :: else
    fi;
#else
    limit = LOW;
    seen = used;
#endif
    if
    :: seen <= LOW -> atomic { lowered = true; LAW }
    :: else -> limit = HIGH
    fi
}

init {
    atomic {
        byte i = 0;
        do
        :: i < TAKERS -> run Taker(); i++
        :: else -> break
        od;
        run Setter()
    }
}
