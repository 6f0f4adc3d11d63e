/* transfer_file: what `leat tenant export` writes and `leat tenant import` reads: one file, only
 * ever appended to, chunk by chunk. It holds keys' secrets: mode 0600. Format 1; numbers most
 * significant byte first:
 *
 *   header, 128 bytes:
 *     0 "leat-mv1"       8 u32 number: 0, 1, 2 ..   12 u8 kind   13 three zeros
 *    16 u32 rows        20 u32 partition            24 u64 first  32 u64 next
 *    40 u64 bytes       48 u64 total rows
 *    56 4 x u64 sum of its rows (sql/transfer_record.h)
 *    88 SHA-256 of the digest before (chunk 0: zeros), the header's first 88 bytes, and the payload
 *   120 u64 XXH3 of the header so far
 *   payload: `bytes` bytes: records
 *
 * Kinds: TRANSFER_BEGIN the first chunk, one record of BEGIN_TYPES; a table's `number`;
 * TRANSFER_SEAL what comes after is of a tenant that nobody uses any more; TRANSFER_END nothing
 * follows, its sum is the whole content's. A chunk of the journal is of one partition, events first
 * .. next-1.
 *
 * Every chunk's digest covers the one before it, so the last one stands for all. A chunk that was
 * not written to its end is no chunk: whoever appends removes it first. One thread; calls block. */
#ifndef LEAT_SQL_TRANSFER_FILE_H
#define LEAT_SQL_TRANSFER_FILE_H

#include "base/buf.h"
#include "base/err.h"
#include "sql/transfer_record.h"

#include <stdint.h>

enum {
	TRANSFER_BEGIN = 0,
	TRANSFER_SEAL = 254,
	TRANSFER_END = 255,
	TRANSFER_DIGEST = 32,
	TRANSFER_HEADER = 128,
};
/* The record of the first chunk: of the source. */
#define TRANSFER_BEGIN_TYPES "buttuu"
enum {
	BEGIN_NAME,
	BEGIN_TENANT_ID,
	BEGIN_CREATED_AT,
	BEGIN_ENGINE,
	BEGIN_SCHEMA,
	BEGIN_WITHOUT_KEYS
};

struct transfer_chunk {
	struct transfer_sum sum; /* of its rows; sum.rows in all that it sums up */
	uint64_t first, next;    /* journal: sequence numbers, of this */
	uint64_t bytes;          /* of payload */
	uint32_t partition;
	uint32_t number, rows;
	uint8_t kind;
	uint8_t digest[TRANSFER_DIGEST];
};

struct transfer_file;

/* To append: makes the file if need be, and locks it. To read: it must be there. NULL with e. */
struct transfer_file *transfer_file_open(const char *path, bool append, struct err *e);
void transfer_file_close(struct transfer_file *f); /* NULL does nothing */

/* The next chunk, its payload checked and put into *payload (cleared first); or with NULL skipped
 * unchecked. 1; 0: there is no further whole chunk; -1: it is damaged, e says which. */
int transfer_file_next(struct transfer_file *f, struct transfer_chunk *out, struct buf *payload,
                       struct err *e);

/* Where the next chunk begins, and to go on there again. */
struct transfer_place {
	uint64_t at;
	uint32_t number;
	uint8_t digest[TRANSFER_DIGEST];
};

struct transfer_place transfer_file_place(const struct transfer_file *f);
void transfer_file_return(struct transfer_file *f, const struct transfer_place *to);

/* To append: what is behind the chunk read last goes. */
int transfer_file_truncate(struct transfer_file *f, struct err *e);

/* On the disk when it returns 0. Fills in number, bytes and digest. */
int transfer_file_append(struct transfer_file *f, struct transfer_chunk *c, struct slice payload,
                         struct err *e);

uint64_t
transfer_file_bytes(const struct transfer_file *f); /* up to the chunk read or written last */

#endif
