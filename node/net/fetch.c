#include "node/net/fetch.h"

#include "base/buf.h"
#include "base/mem.h"
#include "node/net/authorities.h"
#include "node/net/loop.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <unistd.h>

enum {
	CONNECT_MS = 5000,
	POLL_MS = 1000,
	HEADERS_MAX = 64 * 1024, /* bytes, of all an answer's headers and those before it */
	CA_KEPT_S = 60,          /* the system's authorities */
};

struct transfer {
	TAILQ_ENTRY(transfer) link;
	struct fetcher *fetcher;
	struct authorities *trusted; /* or NULL */
	CURL *easy;                  /* the thread's */
	struct buf body;
	size_t header_bytes;
	char error[256]; /* "" = 200 */
	char why[CURL_ERROR_SIZE];
	fetch_fn *done;
	void *arg;
	char url[FETCH_URL_MAX + 1];
};

TAILQ_HEAD(transfers, transfer);

struct fetcher {
	struct loop *loop;
	struct fetch_settings settings;
	struct authorities *trusted; /* or NULL; loop thread only */
	struct loop_watch *watch;
	int fd;              /* eventfd: some have ended */
	size_t under_way;    /* done was not called yet; loop thread only */
	bool running;        /* there is a thread; loop thread only */
	atomic_bool stop;    /* it shall end at once */
	pthread_t thread;    /* from the first fetch on */
	CURLM *multi;        /* the thread's, but for wake-ups */
	struct transfers on; /* with libcurl; the thread's */
	pthread_mutex_t mtx;
	struct transfers begun; /* guarded by mtx: for the thread */
	struct transfers ended; /* likewise: for the loop */
};

static void transfer_free(struct transfer *t)
{
	buf_release(&t->body);
	authorities_free(t->trusted); /* in the thread only while the loop waits for its end */
	free(t);
}

/* ---- the thread ------------------------------------------------------------------------------ */

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	size_t max = t->fetcher->settings.max_bytes;

	(void)size; /* 1 */
	if (n > max - t->body.len) {
		snprintf(t->error, sizeof t->error, "the answer has more than %zu bytes", max);
		return 0;
	}
	buf_append(&t->body, data, n);
	return n;
}

static size_t on_header(char *data, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;

	(void)data;
	(void)size; /* 1 */
	t->header_bytes += n;
	if (t->header_bytes <= HEADERS_MAX)
		return n;
	snprintf(t->error, sizeof t->error, "the answer has more than %d bytes of headers",
	         HEADERS_MAX);
	return 0;
}

/* The directory of the system's would count beside a bundle of our own. */
static void trust(CURL *c, const struct authorities *a)
{
	struct slice pem = authorities_pem(a);
	struct curl_blob blob = {.data = (void *)pem.p, .len = pem.n, .flags = CURL_BLOB_NOCOPY};

	curl_easy_setopt(c, CURLOPT_CAINFO_BLOB, &blob);
	curl_easy_setopt(c, CURLOPT_CAPATH, NULL);
}

static void begin(struct fetcher *f, struct transfer *t)
{
	CURL *c = curl_easy_init();

	if (!c)
		fatal("libcurl: out of memory");
	t->easy = c;
	curl_easy_setopt(c, CURLOPT_PRIVATE, t);
	curl_easy_setopt(c, CURLOPT_URL, t->url);
	curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "https");
	curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c, CURLOPT_QUICK_EXIT, 1L); /* a name lookup cannot be broken off */
	curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, f->settings.timeout_ms);
	curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
	curl_easy_setopt(c, CURLOPT_FORBID_REUSE, 1L); /* the next one is minutes away */
	curl_easy_setopt(c, CURLOPT_CA_CACHE_TIMEOUT, (long)CA_KEPT_S);
	curl_easy_setopt(c, CURLOPT_USERAGENT, "leat");
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
	curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(c, CURLOPT_HEADERDATA, t);
	curl_easy_setopt(c, CURLOPT_ERRORBUFFER, t->why);
	if (t->trusted)
		trust(c, t->trusted);
	TAILQ_INSERT_TAIL(&f->on, t, link);
	curl_multi_add_handle(f->multi, c);
}

static void take_begun(struct fetcher *f)
{
	struct transfers begun = TAILQ_HEAD_INITIALIZER(begun);
	struct transfer *t;

	pthread_mutex_lock(&f->mtx);
	TAILQ_CONCAT(&begun, &f->begun, link);
	pthread_mutex_unlock(&f->mtx);
	while ((t = TAILQ_FIRST(&begun))) {
		TAILQ_REMOVE(&begun, t, link);
		begin(f, t);
	}
}

/* A server's words may be in it: keep what can be read. */
static void clean(char *text)
{
	for (; *text; text++) {
		if (*text < ' ' || *text > '~')
			*text = '?';
	}
}

static void judge(struct transfer *t, CURLcode rc)
{
	long status = 0;

	curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
	if (rc != CURLE_OK && !t->error[0])
		snprintf(t->error, sizeof t->error, "%s",
		         t->why[0] ? t->why : curl_easy_strerror(rc));
	else if (status != 200 && !t->error[0])
		snprintf(t->error, sizeof t->error, "HTTP status %ld%s", status,
		         status / 100 == 3 ? ": redirects are not followed" : "");
	clean(t->error);
}

static void let_go(struct fetcher *f, struct transfer *t)
{
	TAILQ_REMOVE(&f->on, t, link);
	curl_multi_remove_handle(f->multi, t->easy);
	curl_easy_cleanup(t->easy);
}

static void give_ended(struct fetcher *f)
{
	uint64_t one = 1;
	CURLMsg *m;
	int left;

	while ((m = curl_multi_info_read(f->multi, &left))) {
		void *private;
		struct transfer *t;

		if (m->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &private);
		t = private;
		judge(t, m->data.result);
		let_go(f, t);
		pthread_mutex_lock(&f->mtx);
		TAILQ_INSERT_TAIL(&f->ended, t, link);
		pthread_mutex_unlock(&f->mtx);
		if (write(f->fd, &one, sizeof one) < 0)
			fatal("eventfd: %s", strerror(errno));
	}
}

static void *transfer_all(void *arg)
{
	struct fetcher *f = arg;
	struct transfer *t;
	int n;

	while (!atomic_load(&f->stop)) {
		take_begun(f);
		if (curl_multi_perform(f->multi, &n) != CURLM_OK)
			fatal("libcurl: cannot go on");
		give_ended(f);
		curl_multi_poll(f->multi, NULL, 0, POLL_MS, NULL); /* or until a wake-up */
	}
	while ((t = TAILQ_FIRST(&f->on))) {
		let_go(f, t);
		transfer_free(t);
	}
	return NULL;
}

/* ---- the loop -------------------------------------------------------------------------------- */

static struct transfer *take_ended(struct fetcher *f)
{
	struct transfer *t;

	pthread_mutex_lock(&f->mtx);
	t = TAILQ_FIRST(&f->ended);
	if (t)
		TAILQ_REMOVE(&f->ended, t, link);
	pthread_mutex_unlock(&f->mtx);
	return t;
}

static void on_ended(void *arg)
{
	struct fetcher *f = arg;
	struct transfer *t;
	uint64_t n;

	if (read(f->fd, &n, sizeof n) < 0)
		return;
	while ((t = take_ended(f))) {
		f->under_way--; /* done may ask for the next */
		t->done(t->arg, buf_slice(&t->body), t->error[0] ? t->error : NULL);
		transfer_free(t);
	}
}

static int start(struct fetcher *f, struct err *e)
{
	sigset_t all;
	sigset_t before;
	int rc;

	if (f->running)
		return 0;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the loop's */
	rc = pthread_create(&f->thread, NULL, transfer_all, f);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	f->running = rc == 0;
	return rc ? err_set(e, rc, "no thread for fetches: %s", strerror(rc)) : 0;
}

int fetcher_get(struct fetcher *f, const char *url, fetch_fn *done, void *arg, struct err *e)
{
	size_t n = strlen(url);
	struct transfer *t;

	if (f->under_way >= f->settings.max_at_once)
		return err_set(e, 0, "%zu fetches are under way", f->under_way);
	if (n > FETCH_URL_MAX)
		return err_set(e, 0, "a URL has at most %d bytes", FETCH_URL_MAX);
	if (start(f, e) < 0)
		return -1;
	t = xcalloc(1, sizeof *t);
	t->fetcher = f;
	t->trusted = authorities_ref(f->trusted);
	t->done = done;
	t->arg = arg;
	memcpy(t->url, url, n);
	f->under_way++;
	pthread_mutex_lock(&f->mtx);
	TAILQ_INSERT_TAIL(&f->begun, t, link);
	pthread_mutex_unlock(&f->mtx);
	curl_multi_wakeup(f->multi);
	return 0;
}

void fetcher_trust(struct fetcher *f, struct authorities *a)
{
	authorities_free(f->trusted);
	f->trusted = authorities_ref(a);
}

struct fetcher *fetcher_new(struct loop *l, const struct fetch_settings *settings)
{
	struct fetcher *f = xcalloc(1, sizeof *f);

	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		fatal("libcurl cannot be used");
	f->loop = l;
	f->settings = *settings;
	f->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (f->fd < 0)
		fatal("eventfd: %s", strerror(errno));
	f->multi = curl_multi_init();
	if (!f->multi || pthread_mutex_init(&f->mtx, NULL) != 0)
		fatal("libcurl: out of memory");
	TAILQ_INIT(&f->on);
	TAILQ_INIT(&f->begun);
	TAILQ_INIT(&f->ended);
	f->watch = loop_watch_read(l, f->fd, on_ended, f);
	return f;
}

static void free_all(struct transfers *list)
{
	struct transfer *t;

	while ((t = TAILQ_FIRST(list))) {
		TAILQ_REMOVE(list, t, link);
		transfer_free(t);
	}
}

void fetcher_free(struct fetcher *f)
{
	if (!f)
		return;
	if (f->running) {
		atomic_store(&f->stop, true);
		curl_multi_wakeup(f->multi);
		pthread_join(f->thread, NULL);
	}
	free_all(&f->begun);
	free_all(&f->ended);
	authorities_free(f->trusted);
	curl_multi_cleanup(f->multi);
	pthread_mutex_destroy(&f->mtx);
	loop_watch_free(f->watch);
	close(f->fd);
	curl_global_cleanup();
	free(f);
}
