/* event_props: an event's properties as subscribers get them, in MQTT 5's own form (see struct
 * event), for events that no MQTT client has published. Texts are valid UTF-8 of at most 65,535
 * bytes. Pure, any thread. */
#ifndef LEAT_CLUSTER_EVENT_PROPS_H
#define LEAT_CLUSTER_EVENT_PROPS_H

#include "base/buf.h"

static inline void event_props_text(struct buf *out, struct slice s)
{
	buf_u16be(out, (uint16_t)s.n);
	buf_append_slice(out, s);
}

static inline void event_props_content_type(struct buf *out, struct slice type)
{
	buf_u8(out, 0x03);
	event_props_text(out, type);
}

static inline void event_props_user(struct buf *out, const char *name, struct slice value)
{
	buf_u8(out, 0x26);
	event_props_text(out, slice_str(name));
	event_props_text(out, value);
}

#endif
