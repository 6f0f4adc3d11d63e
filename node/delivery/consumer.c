#include "node/delivery/consumer.h"

#include "node/delivery/delivery.h"

bool consumer_can_begin(const struct consumer *c)
{
	if (c->kind == CONSUMER_REMOTE)
		return remote_can_begin((const struct remote *)c);
	return session_can_begin((const struct session *)c);
}

uint32_t consumer_weight(const struct consumer *c)
{
	return c->kind == CONSUMER_REMOTE ? ((const struct remote *)c)->workers : 1;
}
