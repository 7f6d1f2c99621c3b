/* Constants of columns.h that are there where they are not the usual, and the columns of a group. */
#ifndef GROUPS
#define GROUPS 1
#endif
#ifndef OUT_OFFSET
#define OUT_OFFSET 0
#endif
#ifndef WRITTEN
#define WRITTEN COLUMNS
#endif
#define OF_GROUP (WRITTEN / GROUPS)
