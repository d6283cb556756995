/* The compiler's sandbox has no such file to include. */
#include "/etc/shadow"
int main(void) { return 0; }
