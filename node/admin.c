#include "node/admin.h"

#include "base/log.h"
#include "base/mem.h"
#include "node/net/listener.h"

#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/http.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	IDLE_S = 30,            /* an idle or slow client is cut */
	HEADERS_MAX = 8 * 1024, /* bytes */
};

struct admin {
	struct loop *loop;
	struct evhttp *http;
	struct admin_events events;
	uint16_t port;
};

/* ---- pages: status code and text ------------------------------------------------------------- */

typedef int page_fn(struct admin *a, struct buf *out);

static int page_livez(struct admin *a, struct buf *out)
{
	(void)a; /* that the loop came here is the answer */
	buf_append_str(out, "ok\n");
	return HTTP_OK;
}

static int page_readyz(struct admin *a, struct buf *out)
{
	return a->events.write_ready(a->events.arg, out) ? HTTP_OK : HTTP_SERVUNAVAIL;
}

static int page_metrics(struct admin *a, struct buf *out)
{
	a->events.write_metrics(a->events.arg, out);
	return HTTP_OK;
}

static const struct page {
	const char *path;
	page_fn *fn;
	const char *type;
} pages[] = {
        {"/livez", page_livez, "text/plain; charset=utf-8"},
        {"/readyz", page_readyz, "text/plain; charset=utf-8"},
        {"/metrics", page_metrics, "text/plain; version=0.0.4; charset=utf-8"},
};

static const struct page *find_page(struct evhttp_request *req)
{
	const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
	const char *path = uri ? evhttp_uri_get_path(uri) : NULL;

	for (size_t i = 0; path && i < sizeof pages / sizeof pages[0]; i++) {
		if (strcmp(path, pages[i].path) == 0)
			return &pages[i];
	}
	return NULL;
}

static void on_request(struct evhttp_request *req, void *arg)
{
	struct admin *a = arg;
	const struct page *page = find_page(req);
	struct buf out = {0};
	int code = HTTP_NOTFOUND;

	loop_enter(a->loop);
	if (page)
		code = page->fn(a, &out);
	else
		buf_append_str(&out, "there are /livez, /readyz and /metrics\n");
	evhttp_add_header(evhttp_request_get_output_headers(req), "Content-Type",
	                  page ? page->type : pages[0].type);
	evbuffer_add(evhttp_request_get_output_buffer(req), out.data, out.len);
	evhttp_send_reply(req, code, NULL, NULL);
	buf_release(&out);
}

/* ---- life ------------------------------------------------------------------------------------ */

static uint16_t bound_port(int fd)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof ss;
	struct addr a;

	if (getsockname(fd, (struct sockaddr *)&ss, &len) != 0)
		return 0;
	addr_of_sockaddr(&a, (struct sockaddr *)&ss);
	return a.port;
}

struct admin *admin_new(struct loop *loop, const struct addr *addr,
                        const struct admin_events *events, struct err *e)
{
	struct admin *a;
	char text[ADDR_TEXT];
	int fd = listener_open(addr_text(addr, text), e);

	if (fd < 0)
		return NULL;
	a = xcalloc(1, sizeof *a);
	a->loop = loop;
	a->events = *events;
	a->port = bound_port(fd);
	a->http = evhttp_new(loop_base(loop));
	if (!a->http || evhttp_accept_socket(a->http, fd) != 0) {
		err_set(e, 0, "the admin listener on %s cannot be made", text);
		close(fd);
		admin_free(a);
		return NULL;
	}
	evhttp_set_allowed_methods(a->http, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD);
	evhttp_set_max_headers_size(a->http, HEADERS_MAX);
	evhttp_set_max_body_size(a->http, 0);
	evhttp_set_timeout(a->http, IDLE_S);
	evhttp_set_gencb(a->http, on_request, a);
	log_info("admin", "addr=%s port=%u listening", text, a->port);
	return a;
}

void admin_free(struct admin *a)
{
	if (!a)
		return;
	if (a->http)
		evhttp_free(a->http);
	free(a);
}

uint16_t admin_port(const struct admin *a)
{
	return a->port;
}
