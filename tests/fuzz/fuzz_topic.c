/* Topics and filters: two texts, separated by a newline, through everything that takes them; the
 * relations between them must agree with each other and with the trie. */
#include "tenancy/topic.h"
#include "tenancy/trie.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
	if (!holds)
		abort();
}

static void check_trie(struct slice filter, struct slice topic)
{
	struct trie_cache *cache = trie_cache_new(4);
	struct trie *t = trie_new(cache);
	const struct trie_hit *hits;

	trie_add(t, filter, cache, 1);
	require(trie_match(t, topic, &hits) == topic_match(filter, topic));
	require(trie_match(t, topic, &hits) == topic_match(filter, topic)); /* cached */
	require(trie_remove(t, filter, cache, 1));
	require(trie_nodes(t) == 0);
	trie_free(t);
	trie_cache_free(cache);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *cut = size ? memchr(data, '\n', size) : NULL;
	struct slice a = slice(data, cut ? (size_t)(cut - data) : size);
	struct slice b = cut ? slice(cut + 1, size - a.n - 1) : slice(data, 0);
	struct topic_filter f, g;
	struct err e;

	if (topic_filter_parse(a, &f, &e) < 0 || f.filter.n == 0)
		return 0;
	require(topic_filter_covers(f.filter, f.filter));
	require(topic_filter_overlaps(f.filter, f.filter));
	if (topic_check(b, &e) == 0) {
		check_trie(f.filter, b);
		require(topic_filter_covers(f.filter, b) == topic_match(f.filter, b));
	}
	if (topic_filter_parse(b, &g, &e) == 0 && g.filter.n) {
		require(topic_filter_overlaps(f.filter, g.filter) ==
		        topic_filter_overlaps(g.filter, f.filter));
		require(!topic_filter_covers(f.filter, g.filter) ||
		        topic_filter_overlaps(f.filter, g.filter));
	}
	return 0;
}
