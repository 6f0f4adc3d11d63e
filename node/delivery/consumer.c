#include "node/delivery/consumer.h"

#include "node/delivery/delivery.h"

bool consumer_can_begin(const struct consumer *c)
{
	return session_can_begin((const struct session *)c);
}
