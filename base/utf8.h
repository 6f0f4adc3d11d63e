/* utf8: is this text? Pure function, any thread. */
#ifndef LEAT_BASE_UTF8_H
#define LEAT_BASE_UTF8_H

#include "base/slice.h"

/* Well-formed UTF-8 (Unicode table 3-7: no surrogates, no overlong forms, nothing above U+10FFFF)
 * without U+0000: what MQTT-1.5.4 asks of a string. */
bool utf8_valid_text(struct slice s);

#endif
