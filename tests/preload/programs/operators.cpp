// operators.cpp: every form of new and delete, what throws and what does not, and the new-handler. Prints what does not hold.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#define MUST(holds) ((holds) ? (void)0 : (std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #holds), std::exit(1)))

extern "C" std::size_t malloc_usable_size(void *p) noexcept;

static int handled;
static std::size_t volatile too_much = std::size_t(1) << 60;

static void give_up_after_three() {
    if (++handled == 3)
        std::set_new_handler(nullptr);
}

struct alignas(256) Wide {
    char bytes[300];
};

template <class Work> static bool throws(Work work) {
    try {
        work();
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}

int run() {
    int *one = new int(7), *many = new int[1000]();
    MUST(*one == 7 && many[999] == 0 && malloc_usable_size(many) >= 4000);
    delete one;
    delete[] many;
    Wide *wide = new Wide, *wides = new Wide[5];
    MUST(reinterpret_cast<std::uintptr_t>(wide) % 256 == 0 && reinterpret_cast<std::uintptr_t>(wides) % 256 == 0);
    delete wide;
    delete[] wides;
    Wide *maybe = new (std::nothrow) Wide;
    MUST(maybe != nullptr && reinterpret_cast<std::uintptr_t>(maybe) % 256 == 0);
    delete maybe;
    ::operator delete(::operator new(0));
    ::operator delete(nullptr);
    ::operator delete(::operator new(100, std::nothrow), std::nothrow);
    ::operator delete(::operator new(100, std::align_val_t(64)), 100, std::align_val_t(64));
    ::operator delete[](::operator new[](100, std::align_val_t(64), std::nothrow), std::align_val_t(64), std::nothrow);

    MUST(throws([] { ::operator delete(::operator new(too_much)); }));
    MUST(throws([] { ::operator delete[](::operator new[](too_much)); }));
    MUST(throws([] { ::operator delete(::operator new(too_much, std::align_val_t(128))); }));
    MUST(throws([] { std::vector<int> values(too_much); }));
    MUST(::operator new(too_much, std::nothrow) == nullptr);
    MUST(::operator new[](too_much, std::nothrow) == nullptr);
    MUST(::operator new(too_much, std::align_val_t(128), std::nothrow) == nullptr);
    std::set_new_handler(give_up_after_three);
    MUST(throws([] { ::operator delete(::operator new(too_much)); }) && handled == 3);
    handled = 0;
    std::set_new_handler(give_up_after_three);
    MUST(::operator new(too_much, std::nothrow) == nullptr && handled == 3);
    std::set_new_handler([] { throw std::bad_alloc(); });
    MUST(::operator new(too_much, std::nothrow) == nullptr); // what the handler throws stays inside
    std::set_new_handler(nullptr);

    std::vector<std::shared_ptr<std::string>> strings;
    for (int i = 0; i < 100000; i++)
        strings.push_back(std::make_shared<std::string>(std::to_string(i) + std::string(std::size_t(i % 100), 'x')));
    MUST(strings[99999]->substr(0, 5) == "99999");
    return 0;
}

extern "C" void *give_one() { return new int[10]; }
extern "C" int run_all() { return run(); }
int main() { return run(); }
