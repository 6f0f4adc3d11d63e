#include "node/mqtt/mqtt_event.h"

#include "node/mqtt/mqtt_props.h"

#include <stdbool.h>

/* CloudEvents 1.0, MQTT binding, binary mode: attributes are user properties of their own names. */
void mqtt_event_attributes(struct event *ev, struct slice props)
{
	struct slice rest = props;
	struct slice leat_key = {0};
	struct slice key;
	struct slice value;
	bool cloud_event = false;

	while (mqtt_user_prop_next(&rest, &key, &value)) {
		if (slice_eq(key, slice_str("specversion")))
			cloud_event = true;
		else if (slice_eq(key, slice_str("leat-key")))
			leat_key = value;
		else if (slice_eq(key, slice_str("partitionkey")))
			ev->key = value;
	}
	rest = props;
	while (cloud_event && mqtt_user_prop_next(&rest, &key, &value))
		event_take_attribute(ev, key, value);
	if (leat_key.n)
		ev->key = leat_key;
}
