#include "cluster/gone_sql.h"

#include "base/buf.h"

static int on_gone(void *arg, const struct sql_cell *cells, unsigned n)
{
	if (n)
		*(uint32_t *)arg = (uint32_t)cells[0].u;
	return 1;
}

enum sql_outcome gone_sql_look(struct sql_conn *c, const uint32_t *tenants, size_t n,
                               uint32_t *gone)
{
	struct buf json = {0};
	struct sql_param ids;
	enum sql_outcome o;

	*gone = 0;
	for (size_t i = 0; i < n; i++)
		if (tenants[i])
			buf_printf(&json, "%s%u", json.len ? "," : "[", tenants[i]);
	if (!json.len)
		return SQL_OK;
	buf_u8(&json, ']');
	ids = sql_utf8(json.data, json.len);
	o = sql_query(c, STMT_TENANT_GONE, &ids, 1, on_gone, gone);
	buf_release(&json);
	return o;
}
