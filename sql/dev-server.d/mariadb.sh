# shellcheck shell=bash disable=SC2034 # what is set here is used by sql/dev-server
# The installed MariaDB. Each engine says which PROGRAM runs, which lines of its log mean that it is
# READY, how its data directory is made, what SQL leaves no account of the installer's, and its options.

mariadb_program() {
	local server
	server=$(command -v mariadbd || echo /usr/sbin/mariadbd)
	[ -x "$server" ] || die "mariadbd is not installed"
	PROGRAM=("$server") READY=('mariadbd: ready for connections')
}

mariadb_init() { # through a link: the Debian script does not take a path with a space
	local link try
	link=$(mktemp -d "${TMPDIR:-/tmp}/leat-init.XXXXXX")
	ln -s "$DIR" "$link/dir"
	for try in 1 2 3; do # its bootstrap server fails now and then on a machine under load
		rm -rf "$DIR/data"
		TMPDIR=$DIR/tmp mariadb-install-db --no-defaults --datadir="$link/dir/data" \
			--auth-root-authentication-method=normal --skip-test-db --skip-name-resolve \
			--innodb-log-file-size=64M ${USER_ARG[@]+"${USER_ARG[@]}"} \
			>"$DIR/install.log.$try" 2>&1 && break
		[ "$try" -lt 3 ] || die "the data directory cannot be made: see $DIR/install.log.$try"
	done
	rm -r "$link"
}

mariadb_accounts() {
	echo "DELETE FROM mysql.global_priv WHERE User <> 'mariadb.sys';"
	echo "FLUSH PRIVILEGES;"
}

mariadb_args() {
	ARGS+=(--innodb-log-file-size=64M)
}
