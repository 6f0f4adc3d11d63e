#include "node/net/addr.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

static int parse_port(const char *text, uint16_t *port)
{
	unsigned long n = 0;

	if (!*text)
		return -1;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -1;
		n = n * 10 + (unsigned long)(*text - '0');
		if (n > UINT16_MAX)
			return -1;
	}
	*port = (uint16_t)n;
	return 0;
}

int addr_parse(struct addr *a, const char *text, struct err *e)
{
	const char *colon = strrchr(text, ':');
	const char *host = text;
	size_t n;

	memset(a, 0, sizeof *a);
	if (!colon || parse_port(colon + 1, &a->port) < 0)
		return err_set(e, 0, "'%.80s' is not host:port, [address]:port or :port (0-65535)",
		               text);
	n = (size_t)(colon - text);
	if (n >= 2 && host[0] == '[' && host[n - 1] == ']') {
		host++;
		n -= 2;
	} else if (memchr(host, ':', n)) {
		return err_set(e, 0, "'%.80s': write an IPv6 address in brackets, [::1]:port",
		               text);
	}
	if (n >= sizeof a->host)
		return err_set(e, 0, "the host name is longer than %zu bytes", sizeof a->host - 1);
	if (n != 1 || *host != '*')
		memcpy(a->host, host, n);
	return 0;
}

const char *addr_text(const struct addr *a, char out[ADDR_TEXT])
{
	bool v6 = strchr(a->host, ':') != NULL;

	snprintf(out, ADDR_TEXT, v6 ? "[%s]:%u" : "%s:%u", a->host, a->port);
	return out;
}

bool addr_is_set(const struct addr *a)
{
	return a->host[0] || a->port;
}

bool addr_is_loopback(const struct addr *a)
{
	struct in_addr v4;
	struct in6_addr v6;

	if (strcmp(a->host, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, a->host, &v4) == 1)
		return ntohl(v4.s_addr) >> 24 == 127;
	return inet_pton(AF_INET6, a->host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

bool addr_is_numeric(const struct addr *a)
{
	struct in_addr v4;
	struct in6_addr v6;

	return inet_pton(AF_INET, a->host, &v4) == 1 || inet_pton(AF_INET6, a->host, &v6) == 1;
}

int addr_resolve(const struct addr *a, bool passive, struct sockaddr_storage *ss, socklen_t *len,
                 struct err *e)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC};
	struct addrinfo *found;
	char port[8];
	int rc;

	snprintf(port, sizeof port, "%u", a->port);
	hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
	rc = getaddrinfo(a->host[0] ? a->host : NULL, port, &hints, &found);
	if (rc != 0)
		return err_set(e, rc, "no address for '%.80s': %s", a->host, gai_strerror(rc));
	memcpy(ss, found->ai_addr, found->ai_addrlen);
	*len = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

void addr_of_sockaddr(struct addr *a, const struct sockaddr *sa)
{
	memset(a, 0, sizeof *a);
	if (sa->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)sa;

		inet_ntop(AF_INET, &in->sin_addr, a->host, sizeof a->host);
		a->port = ntohs(in->sin_port);
	} else if (sa->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)sa;

		inet_ntop(AF_INET6, &in6->sin6_addr, a->host, sizeof a->host);
		a->port = ntohs(in6->sin6_port);
	}
}
