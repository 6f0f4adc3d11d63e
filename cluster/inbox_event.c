#include "cluster/inbox_event.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/utf8.h"
#include "cluster/event_props.h"

#include <string.h>

#include <jansson.h>

enum {
	TOPIC_MAX = 1024,
	TEXT_MAX = 65535,
};

static int check_row(const struct inbox_row *row, struct err *e)
{
	struct slice t = row->topic;

	if (!t.n || t.n > TOPIC_MAX || t.p[0] == '$' || !utf8_valid_text(t) ||
	    memchr(t.p, '+', t.n) || memchr(t.p, '#', t.n))
		return err_set(e, 0, "%s is no topic", log_quote(t.p, t.n));
	if (row->content_type.n > TEXT_MAX || !utf8_valid_text(row->content_type))
		return err_set(e, 0, "the content type is no text");
	return 0;
}

/* The event borrows from the object, which outlives it. */
static int take_attributes(struct event *ev, json_t *object, struct buf *props, struct err *e)
{
	bool cloud_event = false;
	const char *name;
	json_t *v;

	json_object_foreach(object, name, v)
	{
		struct slice value = slice(json_string_value(v), json_string_length(v));

		if (!json_is_string(v) || value.n > TEXT_MAX || strlen(name) > TEXT_MAX)
			return err_set(e, 0, "attribute %s is not a text of at most %d bytes",
			               log_quote_str(name), TEXT_MAX);
		if (strcmp(name, "key") == 0)
			ev->key = value;
		cloud_event |= event_take_attribute(ev, slice_str(name), value);
		event_props_user(props, strcmp(name, "key") == 0 ? "leat-key" : name, value);
	}
	if (cloud_event && !json_object_get(object, "specversion"))
		event_props_user(props, "specversion", slice_str("1.0"));
	return 0;
}

static struct batch *make(const struct inbox_row *row, struct event *ev)
{
	uint32_t partition_id = layout_partition(row->layout, ev);
	struct batch *b = batch_new(row->tenant_id, ev->when ? BATCH_SCHEDULED : partition_id);

	ev->partition_id = partition_id;
	batch_append(b, ev, (struct publisher){0});
	batch_seal(b);
	return b;
}

struct batch *inbox_event_new(const struct inbox_row *row, struct err *e)
{
	struct event ev = {.topic = row->topic,
	                   .payload = row->payload,
	                   .qos = 1,
	                   .when = row->deliver_ms ? EVENT_AT : EVENT_NOW,
	                   .when_ms = row->deliver_ms};
	struct buf props = {0};
	struct batch *b = NULL;
	json_error_t why;
	json_t *object = NULL;

	if (check_row(row, e) < 0)
		return NULL;
	if (row->content_type.n)
		event_props_content_type(&props, row->content_type);
	if (row->attributes.n) {
		object = json_loadb(row->attributes.p, row->attributes.n, 0, &why);
		if (!json_is_object(object)) {
			err_set(e, 0, "the attributes are not a JSON object (byte %d)",
			        why.position);
			goto out;
		}
		if (take_attributes(&ev, object, &props, e) < 0)
			goto out;
	}
	ev.props = buf_slice(&props);
	b = make(row, &ev);
out:
	json_decref(object);
	buf_release(&props);
	return b;
}
