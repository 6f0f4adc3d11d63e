#include "tenancy/budget.h"

#include <stdbool.h>

/* What is open: the rate that is not given away, and among how much weight it is divided. */
struct open {
	uint64_t rate;
	uint64_t weight;
};

static uint64_t weight_of(const struct budget_claim *c)
{
	return c->waiting ? c->waiting : 1;
}

/* A node that begins has something to begin with before anybody knows of it. */
static uint64_t need_of(const struct budget_claim *c, uint64_t rate, size_t n)
{
	return c->used + c->used / 4 + rate / (20 * n);
}

static uint64_t part_of(const struct open *o, uint64_t weight)
{
	return (uint64_t)((double)o->rate / (double)o->weight * (double)weight);
}

/* Give those what they need who need less than their part; true = somebody got it. */
static bool satisfy(uint64_t rate, const struct budget_claim *claims, size_t n, bool *has,
                    struct open *o)
{
	struct open next = *o;
	bool any = false;

	for (size_t i = 0; i < n; i++) {
		uint64_t need = need_of(&claims[i], rate, n);

		if (has[i] || claims[i].waiting || need > part_of(o, weight_of(&claims[i])))
			continue;
		has[i] = any = true;
		next.rate -= need;
		next.weight -= weight_of(&claims[i]);
	}
	*o = next;
	return any;
}

uint64_t budget_part(uint64_t rate, const struct budget_claim *claims, size_t n)
{
	bool has[BUDGET_CLAIMS_MAX] = {false};
	struct open o = {.rate = rate};
	uint64_t part;

	if (n > BUDGET_CLAIMS_MAX)
		n = BUDGET_CLAIMS_MAX;
	for (size_t i = 0; i < n; i++)
		o.weight += weight_of(&claims[i]);
	while (o.weight && satisfy(rate, claims, n, has, &o))
		;
	if (!has[0])
		part = part_of(&o, weight_of(&claims[0]));
	else if (o.weight) /* somebody wants what is left */
		part = need_of(&claims[0], rate, n);
	else
		part = need_of(&claims[0], rate, n) + o.rate / n;
	return part || !rate ? part : 1;
}
