// own_operators.cpp: a program that has an operator new and delete of its own. The other forms must come down to them.
// Prints how often each was called.
#include <cstdio>
#include <cstdlib>
#include <new>

static long news, deletes;

void *operator new(std::size_t size) {
    news++;
    char *p = static_cast<char *>(std::malloc(size + 16)); // what it hands out is the inside of a block
    if (p == nullptr)
        throw std::bad_alloc();
    return p + 16;
}
void operator delete(void *p) noexcept {
    deletes += p != nullptr;
    if (p != nullptr)
        std::free(static_cast<char *>(p) - 16);
}

int main() {
    for (std::size_t n = 1; n < 2000; n *= 2) {
        char *volatile a = new char;
        char *volatile b = new char[n];
        char *volatile c = new (std::nothrow) char[n];
        delete a;
        delete[] b;
        ::operator delete(::operator new(n), n);
        delete[] c;
    }
    std::printf("%ld %ld\n", news, deletes);
}
