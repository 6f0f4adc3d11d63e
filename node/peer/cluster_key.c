#include "node/peer/cluster_key.h"

#include "base/buf.h"
#include "base/file.h"

#include <openssl/crypto.h>
#include <unistd.h>

enum { KEY_MIN = 32, KEY_MAX = 4096 }; /* bytes */

static int add(const char *file, const char *option, struct tls_psks *out, struct err *e)
{
	struct buf key = {0};
	int rc = file_read_secret(file, KEY_MAX, &key, e);

	if (rc == 0 && key.len < KEY_MIN)
		rc = err_set(e, 0,
		             "%s %.100s has less than %d bytes: try "
		             "`head -c 32 /dev/urandom >FILE`",
		             option, file, KEY_MIN);
	if (rc == 0)
		tls_psks_add(out, buf_slice(&key));
	if (key.data)
		OPENSSL_cleanse(key.data, key.len);
	buf_release(&key);
	return rc;
}

int cluster_key_read(const char *file, const char *also, struct tls_psks *out, struct err *e)
{
	*out = (struct tls_psks){0};
	if (add(file, "--cluster-key", out, e) < 0)
		return -1;
	if (!also || access(also, F_OK) != 0)
		return 0;
	return add(also, "--cluster-key-also", out, e);
}
