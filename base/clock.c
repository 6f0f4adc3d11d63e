#include "base/clock.h"

#include <time.h>

static uint64_t now_ms;
static uint64_t wall_ms;

static uint64_t read_us(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

void clock_tick(void)
{
	now_ms = read_us(CLOCK_BOOTTIME) / 1000;
	wall_ms = read_us(CLOCK_REALTIME) / 1000;
}

uint64_t clock_now_ms(void)
{
	if (!now_ms)
		clock_tick();
	return now_ms;
}

uint64_t clock_wall_ms(void)
{
	if (!wall_ms)
		clock_tick();
	return wall_ms;
}

uint64_t clock_us(void)
{
	return read_us(CLOCK_BOOTTIME);
}

uint64_t clock_wall_ms_now(void)
{
	return read_us(CLOCK_REALTIME) / 1000;
}

void clock_set(uint64_t now, uint64_t wall)
{
	now_ms = now;
	wall_ms = wall;
}
