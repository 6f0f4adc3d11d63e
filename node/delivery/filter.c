/* A subscription's filters: the slots the trie points at, how they apply to an event, and the JSON
 * text that keeps them in the subscription's row:
 * [{"filter":"a/+","qos":1,"nl":true,"rap":true,"rh":1,"id":7,"since":[12,40],"until":[90,77]}, …].
 */
#include "node/delivery/delivery.h"

#include "base/buf.h"
#include "base/mem.h"
#include "tenancy/topic.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

bool filter_is_queue(struct slice text)
{
	return text.n > 7 && memcmp(text.p, "$queue/", 7) == 0;
}

bool filter_is_share(struct slice text)
{
	return filter_is_queue(text) || (text.n > 7 && memcmp(text.p, "$share/", 7) == 0);
}

struct filter *filter_find(struct subscription *s, struct slice text)
{
	for (size_t i = 0; i < s->n_filters; i++) {
		if (s->filters[i].text && slice_eq(slice_str(s->filters[i].text), text))
			return &s->filters[i];
	}
	return NULL;
}

static struct filter *free_slot(struct subscription *s)
{
	for (size_t i = 0; i < s->n_filters; i++) {
		if (!s->filters[i].text)
			return &s->filters[i];
	}
	s->filters = xrealloc(s->filters, (s->n_filters + 1) * sizeof *s->filters);
	return &s->filters[s->n_filters++];
}

struct filter *filter_add(struct subscription *s, struct slice text)
{
	struct filter *f = free_slot(s);
	struct topic_filter parts;

	*f = (struct filter){.text = xstrndup(text.p, text.n)};
	/* it was checked when it was subscribed; what is stored is matched as it stands */
	if (topic_filter_parse(slice(f->text, text.n), &parts, NULL) == 0)
		f->match = parts.filter;
	else
		f->match = slice(f->text, text.n);
	return f;
}

void filter_plant(struct subscription *s, struct filter *f)
{
	trie_add(s->space->trie, f->match, s, (uint32_t)(f - s->filters));
}

void filter_clear(struct filter *f)
{
	free(f->text);
	free(f->since);
	free(f->until);
	*f = (struct filter){0};
}

void filter_remove(struct subscription *s, struct filter *f)
{
	if (!f->share)
		trie_remove(s->space->trie, f->match, s, (uint32_t)(f - s->filters));
	filter_clear(f);
}

void filter_set_until(struct filter *f, const struct positions *until)
{
	free(f->until);
	f->until = positions_copy(until);
}

size_t filter_count(const struct subscription *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n_filters; i++)
		n += s->filters[i].text != NULL;
	return n;
}

bool filter_applies(const struct filter *f, const struct subscription *s, uint32_t partition,
                    uint64_t seq, const struct event *ev)
{
	if ((f->since && positions_are_after(f->since, partition, seq)) ||
	    (f->until && !positions_are_after(f->until, partition, seq)))
		return false;
	return !f->no_local || !s->session || !slice_eq(ev->client, session_client_id(s->session));
}

void match_add(struct match *m, const struct filter *f)
{
	if (f->qos > m->qos)
		m->qos = f->qos;
	if (f->subscription_id && m->n_ids < sizeof m->ids / sizeof *m->ids)
		m->ids[m->n_ids++] = f->subscription_id;
}

/* ---- the stored text ---------------------------------------------------------------------------
 */

static void encode_one(const struct filter *f, struct buf *out)
{
	buf_append_str(out, "{\"filter\":");
	buf_json_string(out, slice_str(f->text));
	buf_printf(out, ",\"qos\":%u", f->qos);
	if (f->no_local)
		buf_append_str(out, ",\"nl\":true");
	if (f->retain_as_published)
		buf_append_str(out, ",\"rap\":true");
	if (f->retain_handling)
		buf_printf(out, ",\"rh\":%u", f->retain_handling);
	if (f->subscription_id)
		buf_printf(out, ",\"id\":%" PRIu32, f->subscription_id);
	positions_encode(out, "since", f->since);
	positions_encode(out, "until", f->until);
	buf_u8(out, '}');
}

void filters_encode(const struct subscription *s, struct buf *out)
{
	bool first = true;

	buf_u8(out, '[');
	for (size_t i = 0; i < s->n_filters; i++) {
		if (!s->filters[i].text)
			continue;
		if (!first)
			buf_u8(out, ',');
		first = false;
		encode_one(&s->filters[i], out);
	}
	buf_u8(out, ']');
}

/* The row is not trusted: somebody may have edited it. */
static int decode_one(struct subscription *s, const json_t *o)
{
	json_int_t qos = json_integer_value(json_object_get(o, "qos"));
	struct slice text = slice_str(json_string_value(json_object_get(o, "filter")));
	struct topic_filter parts;
	struct filter *f;

	if (qos < 0 || qos > 2 || topic_filter_parse(text, &parts, NULL) != 0 ||
	    (s->kind != BUS_SUB_SESSION && parts.kind != FILTER_PLAIN) || filter_find(s, text) ||
	    filter_count(s) >= SESSION_FILTERS_MAX)
		return -1;
	f = filter_add(s, text);
	f->qos = (uint8_t)qos;
	f->no_local = json_is_true(json_object_get(o, "nl"));
	f->retain_as_published = json_is_true(json_object_get(o, "rap"));
	f->retain_handling = (uint8_t)json_integer_value(json_object_get(o, "rh"));
	f->subscription_id = (uint32_t)json_integer_value(json_object_get(o, "id"));
	f->since = positions_decode(o, "since");
	f->until = positions_decode(o, "until");
	return 0;
}

int filters_decode(struct subscription *s, struct slice json)
{
	json_t *root = json_loadb(json.p, json.n, JSON_REJECT_DUPLICATES, NULL);
	size_t i;
	json_t *o;
	int rc = json_is_array(root) ? 0 : -1;

	if (rc == 0) {
		json_array_foreach(root, i, o)
		{
			if (decode_one(s, o) != 0)
				rc = -1;
		}
	}
	json_decref(root);
	return rc;
}

void filters_take_until(struct subscription *s, struct slice json)
{
	json_t *root = json_loadb(json.p, json.n, JSON_REJECT_DUPLICATES, NULL);
	struct positions *until = positions_decode(json_array_get(root, 0), "until");

	if (s->n_filters)
		filter_set_until(&s->filters[0], until);
	free(until);
	json_decref(root);
}
