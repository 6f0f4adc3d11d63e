#include "tenancy/token_limits.h"

#include "base/log.h"

#include <string.h>

static const char names[] =
#define TOKEN_LIMIT(field) " " #field
#include "tenancy/token_limits.def"
#undef TOKEN_LIMIT
        ;

static uint64_t *field_of(struct token_limits *l, const char *name)
{
#define TOKEN_LIMIT(field)             \
	if (strcmp(name, #field) == 0) \
		return &l->field;
#include "tenancy/token_limits.def"
#undef TOKEN_LIMIT
	return NULL;
}

static int take(struct token_limits *out, const char *name, const json_t *value, struct err *e)
{
	uint64_t *field = field_of(out, name);

	if (!field)
		return err_set(e, 0, "claim limits: there is no limit %.60s; there are%s",
		               log_quote_str(name), names);
	if (!json_is_integer(value) || json_integer_value(value) < 1)
		return err_set(e, 0, "claim limits: %s must be a whole number from 1 on", name);
	*field = (uint64_t)json_integer_value(value);
	out->any = true;
	return 0;
}

int token_limits_parse(json_t *claim, struct token_limits *out, struct err *e)
{
	*out = (struct token_limits){0};
	if (claim && !json_is_object(claim))
		return err_set(e, 0, "claim limits must be an object");
	for (void *at = json_object_iter(claim); at; at = json_object_iter_next(claim, at)) {
		if (take(out, json_object_iter_key(at), json_object_iter_value(at), e) < 0)
			return -1;
	}
	return 0;
}
