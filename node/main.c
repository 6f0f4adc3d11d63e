/* leat: one binary, many commands. The commands are the rows of commands.def. */
#include "node/cli/command.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef LEAT_VERSION
#define LEAT_VERSION "0.1.0"
#endif

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
};

static const struct command commands[] = {
#define COMMAND(name, help) {#name, cmd_##name, help},
#include "node/cli/commands.def"
#undef COMMAND
};

enum { COMMANDS = sizeof commands / sizeof commands[0], EXIT_USAGE = 2 };

static void print_help(FILE *f)
{
	fputs("Leat: a multi-tenant event bus on MySQL and MariaDB.\n\n"
	      "usage: leat COMMAND [options]\n\n",
	      f);
	for (size_t i = 0; i < COMMANDS; i++)
		fprintf(f, "  leat %-12s %s\n", commands[i].name, commands[i].help);
	fputs("\n  leat COMMAND --help   the options of a command\n"
	      "  leat --version        which version this is\n",
	      f);
}

static const struct command *find(const char *name)
{
	for (size_t i = 0; i < COMMANDS; i++) {
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	}
	return NULL;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "help";
	const struct command *c = find(name);

	/* a peer that went away is an error from write(), not the end of the process */
	signal(SIGPIPE, SIG_IGN);
	if (c)
		return c->run(argc - 1, argv + 1);
	if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0) {
		puts("leat " LEAT_VERSION);
		return EXIT_SUCCESS;
	}
	if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
		print_help(stdout);
		return argc > 1 ? EXIT_SUCCESS : EXIT_USAGE;
	}
	fprintf(stderr, "leat: there is no command '%.40s'\n\n", name);
	print_help(stderr);
	return EXIT_USAGE;
}
