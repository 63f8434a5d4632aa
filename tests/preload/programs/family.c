/* family.c: each function of the malloc family, held against what glibc says of it. Says nothing and returns 0, or names
 * the line that does not hold. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MUST(holds) ((holds) ? (void)0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #holds), exit(1)))

void *(*volatile allocate)(size_t) = malloc; /* through pointers: the compiler may know what malloc does */
void *(*volatile allocate_zeroed)(size_t, size_t) = calloc;
void *(*volatile resize)(void *, size_t) = realloc;
void *(*volatile resize_array)(void *, size_t, size_t) = reallocarray;
void *(*volatile aligned)(size_t, size_t) = aligned_alloc;
void *(*volatile old_aligned)(size_t, size_t) = memalign;
void *(*volatile of_pages)(size_t) = valloc;
void *(*volatile whole_pages)(size_t) = pvalloc;
int (*volatile posix_aligned)(void **, size_t, size_t) = posix_memalign;
void (*volatile give_back)(void *) = free;
extern void free_sized(void *p, size_t size) __attribute__((weak)); /* newer than the C library, it may be */
extern void free_aligned_sized(void *p, size_t align, size_t size) __attribute__((weak));
extern void cfree(void *p) __attribute__((weak));
extern void *__libc_malloc(size_t size);
extern void __libc_free(void *p);

static uint64_t remainder_of(void *p, uint64_t by) { return (uintptr_t)p % by; }

static void nothing_and_too_much(void) {
    void *a = allocate(0), *b = allocate(0);
    MUST(a && b && a != b);
    give_back(a);
    give_back(b);
    give_back(NULL);
    size_t wrong[] = {SIZE_MAX, SIZE_MAX - 4095, (size_t)PTRDIFF_MAX + 1, (size_t)1 << 60};
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        errno = 0;
        MUST(allocate(wrong[i]) == NULL && errno == ENOMEM);
        errno = 0;
        MUST(allocate_zeroed(1, wrong[i]) == NULL && errno == ENOMEM);
        errno = 0;
        MUST(aligned(64, wrong[i]) == NULL && errno == ENOMEM);
        void *kept = memcpy(allocate(100), "kept", 5);
        errno = 0;
        MUST(resize(kept, wrong[i]) == NULL && errno == ENOMEM && strcmp(kept, "kept") == 0);
        give_back(kept);
    }
    errno = 0;
    MUST(allocate_zeroed((size_t)1 << 60, 17) == NULL && errno == ENOMEM);
    errno = 0;
    MUST(resize_array(NULL, (size_t)1 << 33, (size_t)1 << 33) == NULL && errno == ENOMEM);
    MUST((a = allocate_zeroed(0, 5)) != NULL);
    give_back(a);
}

static void sizes(void) {
    for (size_t size = 1; size < (size_t)40 << 20; size += 1 + size / 3) {
        unsigned char *p = allocate(size);
        MUST(p && remainder_of(p, 16) == 0 && malloc_usable_size(p) >= size);
        memset(p, 0xA5, size);
        unsigned char *larger = resize(p, size + size / 2 + 1);
        MUST(larger && remainder_of(larger, 16) == 0);
        for (size_t i = 0; i < size; i += 1 + size / 100)
            MUST(larger[i] == 0xA5);
        unsigned char *smaller = resize(larger, size / 10 + 1);
        MUST(smaller && smaller[size / 10] == 0xA5);
        errno = 77;
        give_back(smaller);
        MUST(errno == 77);
        unsigned char *zeroed = allocate_zeroed(size, 1);
        for (size_t i = 0; i < size; i += 1 + size / 100)
            MUST(zeroed[i] == 0);
        MUST(zeroed[size - 1] == 0);
        memset(zeroed, 1, size);
        give_back(zeroed);
    }
    MUST(malloc_usable_size(NULL) == 0);
    void *p = allocate(8);
    MUST(resize(p, 0) == NULL); /* freed */
    MUST((p = resize(NULL, 8)) != NULL);
    MUST((p = resize_array(p, 10, 10)) != NULL && malloc_usable_size(p) >= 100);
    give_back(p);
}

static void alignments(void) {
    for (size_t align = 1; align <= (size_t)8 << 20; align *= 2)
        for (size_t size = 0; size < (size_t)3 << 20; size = size * 7 + 1) {
            unsigned char *p = aligned(align, size);
            MUST(p && remainder_of(p, align) == 0 && malloc_usable_size(p) >= size);
            memset(p, 1, size);
            give_back(p);
            void *q = (void *)1;
            MUST(posix_aligned(&q, align, size) == (align < 8 ? EINVAL : 0));
            MUST(align < 8 ? q == (void *)1 : remainder_of(q, align) == 0);
            if (align >= 8)
                give_back(q);
        }
    void *q = (void *)1;
    errno = 0;
    MUST(posix_aligned(&q, 24, 8) == EINVAL && posix_aligned(&q, 0, 8) == EINVAL && q == (void *)1 && errno == 0);
    MUST(posix_aligned(&q, 64, SIZE_MAX - 64) == ENOMEM && q == (void *)1);
    errno = 0;
    MUST(aligned(24, 8) == NULL && errno == EINVAL);
    errno = 0;
    MUST(old_aligned(((size_t)1 << 63) + 1, 8) == NULL && errno == EINVAL);
    void *p = old_aligned(24, 8); /* rounded up to 32 */
    MUST(p && remainder_of(p, 32) == 0);
    give_back(p);
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    p = of_pages(10);
    MUST(p && remainder_of(p, page) == 0);
    give_back(p);
    p = whole_pages(page + 1);
    MUST(p && remainder_of(p, page) == 0 && malloc_usable_size(p) >= 2 * page);
    give_back(p);
    errno = 0;
    MUST(whole_pages(SIZE_MAX - 10) == NULL && errno == ENOMEM);
}

static void other_names(void) {
    if (free_sized)
        free_sized(allocate(100), 100);
    if (free_aligned_sized)
        free_aligned_sized(aligned(256, 512), 256, 512);
    if (cfree)
        cfree(allocate(10));
    give_back(__libc_malloc(10));
    __libc_free(allocate(10));
}

/* What the C library allocates for its callers is theirs to free. */
static void from_libc(void) {
    char *line = NULL, *text = NULL;
    size_t room = 0;
    FILE *file = tmpfile();
    MUST(file && fputs("some text\n", file) >= 0);
    rewind(file);
    MUST(getline(&line, &room, file) == 10);
    fclose(file);
    MUST(asprintf(&text, "%s%d", line, 42) == 12);
    char *copy = strdup(text), *path = realpath("/", NULL), *folder = getcwd(NULL, 0);
    MUST(copy && path && folder);
    give_back(copy);
    give_back(path);
    give_back(folder);
    give_back(text);
    give_back(line);
    FILE *memory = open_memstream(&text, &room);
    fprintf(memory, "%0100d", 7);
    fclose(memory);
    MUST(room == 100);
    give_back(text);
}

int main(void) {
    nothing_and_too_much();
    sizes();
    alignments();
    other_names();
    from_libc();
    MUST(malloc_trim(0) == 1);
    return 0;
}
