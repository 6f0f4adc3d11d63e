/* command: what main.c can run. `leat NAME …` calls cmd_NAME with argv[0] = NAME and returns its
 * exit status. A command is a row in commands.def and a function with that name. */
#ifndef LEAT_NODE_COMMAND_H
#define LEAT_NODE_COMMAND_H

#define COMMAND(name, help) int cmd_##name(int argc, char **argv);
#include "node/cli/commands.def"
#undef COMMAND

#endif
