/* A file of `leat tenant import` may be anything: every chunk is refused or is one, and its records
 * are taken apart without reading past them. Input: the file; then its bytes as one chunk's
 * payload, since no fuzzer guesses SHA-256. */
#include "sql/transfer_file.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_records(struct slice rest, uint8_t kind)
{
	const struct transfer_table *t = transfer_table_of(kind);
	const char *types = t ? t->types : TRANSFER_BEGIN_TYPES;
	struct sql_param params[TRANSFER_COLUMNS_MAX];
	struct transfer_sum sum = {0};

	while (rest.n) {
		struct slice at = rest;

		if (transfer_record_take(&rest, types, params, NULL) < 0)
			return;
		if (rest.n >= at.n)
			abort();
		transfer_sum_row(&sum, kind, slice(at.p, at.n - rest.n));
	}
}

static void read_file(const char *path)
{
	struct transfer_file *f = transfer_file_open(path, false, NULL);
	struct transfer_chunk c;
	struct buf payload = {0};

	if (!f)
		abort();
	while (transfer_file_next(f, &c, &payload, NULL) > 0)
		read_records(buf_slice(&payload), c.kind);
	buf_release(&payload);
	transfer_file_close(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int fd = -1;
	static char path[64];

	if (fd < 0) {
		fd = memfd_create("transfer", MFD_CLOEXEC);
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	}
	if (ftruncate(fd, 0) || pwrite(fd, data, size, 0) != (ssize_t)size)
		abort();
	read_file(path);
	if (size)
		read_records(slice(data + 1, size - 1), data[0]);
	return 0;
}
