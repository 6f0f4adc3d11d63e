# shellcheck shell=bash disable=SC2034 # what is set here is used by sql/dev-server
# MySQL, which Debian 12 does not have: taken from a root directory with Debian sid in it, made once
# (it needs root and debootstrap, and 1 GB). MYSQL_ROOT names another one, or / for an installed
# MySQL.

mysql_root() { # prints where it is
	echo "${MYSQL_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/leat/mysql-root}"
}

mysql_make_root() { # ROOT
	[ "$(id -u)" = 0 ] || die "no MySQL at $1: run this once as root, or set MYSQL_ROOT"
	command -v debootstrap >/dev/null || die "debootstrap is not installed"
	echo "dev-server: making $1 with Debian sid and MySQL: some minutes, once" >&2
	mkdir -p "${1%/*}"
	rm -rf "$1.new"
	# Packages are unpacked and set up in there: nothing of this system changes.
	(umask 022 && debootstrap --variant=minbase --include=mysql-server,libmysqlclient-dev \
		sid "$1.new" >"$1.log" 2>&1) || die "debootstrap fails: see $1.log"
	mv "$1.new" "$1"
}

# Its programs run beside this system's by their own loader and libraries: no chroot, no privileges.
mysql_program() {
	local root loader
	root=$(mysql_root)
	[ -x "$root/usr/sbin/mysqld" ] || mysql_make_root "$root"
	loader=$root/lib64/ld-linux-x86-64.so.2
	PROGRAM=("$root/usr/sbin/mysqld") READY=('mysqld: ready for connections')
	[ "$root" = / ] || PROGRAM=("$loader" --library-path "$root/usr/lib/x86_64-linux-gnu" "${PROGRAM[@]}")
	MYSQL_BASE=(--basedir="$root/usr" --lc-messages-dir="$root/usr/share/mysql"
		--plugin-dir="$root/usr/lib/mysql/plugin")
}

mysql_init() {
	"${PROGRAM[@]}" --no-defaults --initialize-insecure --datadir="$DIR/data" --tmpdir="$DIR/tmp" \
		"${MYSQL_BASE[@]}" ${USER_ARG[@]+"${USER_ARG[@]}"} >"$DIR/install.log" 2>&1 ||
		die "the data directory cannot be made: see $DIR/install.log"
}

mysql_accounts() {
	echo "DROP USER root@localhost;"
}

mysql_args() {
	ARGS+=("${MYSQL_BASE[@]}" --secure-file-priv=NULL --innodb-redo-log-capacity=128M
		--mysqlx=0)
}
