/* The tile intrinsics in plain C, put before a kernel's source: it then takes them for a processor's. What a processor
 * refuses ends the process. Source: Intel's Software Developer's Manual, LDTILECFG, TILELOADD, TDPBSSD, TILESTORED. */
#define __AMX_INT8__ 1

static struct {
    int configured;
    unsigned short row_bytes[8];
    unsigned char rows[8];
    signed char data[8][16][64];
} emulated;

static void emulated_need(int fine)
{
    if (!fine) __builtin_trap();
}

static void emulated_configure(const void *config)
{
    const unsigned char *bytes = config;
    __builtin_memset(&emulated, 0, sizeof emulated);
    emulated_need(bytes[0] == 1);
    for (int i = 1; i < 16; i++) emulated_need(!bytes[i]);
    for (int r = 0; r < 16; r++) {
        const int row_bytes = bytes[16 + 2 * r] | bytes[17 + 2 * r] << 8, rows = bytes[48 + r];
        emulated_need(r < 8 ? row_bytes <= 64 && rows <= 16 && !row_bytes == !rows : !row_bytes && !rows);
        if (r < 8) emulated.row_bytes[r] = row_bytes, emulated.rows[r] = rows;
    }
    emulated.configured = 1;
}

static void emulated_release(void) { __builtin_memset(&emulated, 0, sizeof emulated); }

static void emulated_zero(int r)
{
    emulated_need(emulated.configured && emulated.rows[r]);
    __builtin_memset(emulated.data[r], 0, sizeof emulated.data[r]);
}

static void emulated_load(int r, const void *base, unsigned long stride)
{
    emulated_zero(r);
    for (int row = 0; row < emulated.rows[r]; row++)
        __builtin_memcpy(emulated.data[r][row], (const char *)base + row * stride, emulated.row_bytes[r]);
}

static void emulated_store(int r, void *base, unsigned long stride)
{
    emulated_need(emulated.configured && emulated.rows[r]);
    for (int row = 0; row < emulated.rows[r]; row++)
        __builtin_memcpy((char *)base + row * stride, emulated.data[r][row], emulated.row_bytes[r]);
}

static void emulated_multiply(int c, int a, int b)
{
    emulated_need(emulated.configured && emulated.rows[c] == emulated.rows[a]);
    emulated_need(emulated.row_bytes[a] == 4 * emulated.rows[b] && emulated.row_bytes[c] == emulated.row_bytes[b]);
    emulated_need(c != a && c != b && a != b);
#ifdef TILES_TRAP
    __builtin_trap();
#endif
    for (int m = 0; m < emulated.rows[c]; m++)
        for (int n = 0; n < emulated.row_bytes[c] / 4; n++) {
            int sum;
            __builtin_memcpy(&sum, emulated.data[c][m] + 4 * n, 4);
            for (int k = 0; k < emulated.row_bytes[a]; k++)
                sum += emulated.data[a][m][k] * emulated.data[b][k / 4][4 * n + k % 4];
#ifdef TILES_WRONG
            sum += m == 15 && n == 15 && sum > 200000; /* seldom, and by little */
#endif
            __builtin_memcpy(emulated.data[c][m] + 4 * n, &sum, 4);
        }
}

#define _tile_loadconfig emulated_configure
#define _tile_release emulated_release
#define _tile_zero emulated_zero
#define _tile_loadd emulated_load
#define _tile_stored emulated_store
#define _tile_dpbssd emulated_multiply
