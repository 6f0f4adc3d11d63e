# shellcheck shell=bash disable=SC2034 # what is set here is used by sql/dev-server
# Galera: three MariaDB servers in DIR/1, DIR/2 and DIR/3, each with the files of a plain one (its own
# pid, log, dsn …), replicating to each other over loopback. In DIR: dsn and admin-dsn have a line for
# each member, dsn-any has one that names all.

MEMBERS=(1 2 3)

member_program() {
	mariadb_program
	GALERA=
	for GALERA in /usr/lib/galera/libgalera_smm.so /usr/lib64/galera-4/libgalera_smm.so; do
		[ ! -e "$GALERA" ] || break
	done
	[ -e "$GALERA" ] || die "galera-4 is not installed"
	command -v rsync >/dev/null || die "rsync is not installed"
	READY+=('WSREP: Synchronized with group')
	# A member's copy to another (rsync) fails as root: be somebody else in a user namespace,
	# where what is root's outside is theirs.
	[ "$(id -u)" != 0 ] || PROGRAM=(unshare --user --map-user=999 --map-group=999 "${PROGRAM[@]}")
	USER_ARG=()
}

member_args() {
	mariadb_args
	ARGS+=(--wsrep-on=ON --wsrep-provider="$GALERA" --wsrep-cluster-name=leat
		--wsrep-cluster-address="gcomm://$GROUP" --wsrep-node-name="${DIR##*/}"
		--wsrep-node-address="127.0.0.1:$GROUP_PORT"
		--wsrep-sst-method=rsync --wsrep-sst-receive-address="127.0.0.1:$COPY_PORT"
		--wsrep-provider-options="gmcast.listen_addr=tcp://127.0.0.1:$GROUP_PORT;ist.recv_addr=127.0.0.1:$CATCH_UP_PORT"
		--binlog-format=ROW --innodb-autoinc-lock-mode=2)
}

# ---- where each one stands -------------------------------------------------------------------

write_state() { # UUID SEQNO SAFE_TO_BOOTSTRAP: the file a member says its state with
	printf '# GALERA saved state\nversion: 2.1\nuuid: %s\nseqno: %s\nsafe_to_bootstrap: %s\n' \
		"$@" >"$DIR/data/grastate.dat"
}

state_field() { # NAME
	sed -n "s/^$1: *//p" "$DIR/data/grastate.dat"
}

recovered_position() {
	sed -n 's/.*WSREP: Recovered position: *//p' "$DIR/recover.log" | tail -n 1
}

# Now and then the server that finds out does not end by itself, and takes memory for ever: once it
# has said where it is, it is not waited for long. It listens where nobody finds it: a node that
# connected would keep it from ending, too.
recover() {
	local pid
	"${PROGRAM[@]}" "${ARGS[@]}" --wsrep-recover --skip-networking --socket="${SOCKET}r" \
		>"$DIR/recover.log" 2>&1 &
	pid=$!
	while kill -0 "$pid" 2>/dev/null && [ -z "$(recovered_position)" ]; do sleep 0.1; done
	for _ in $(seq 50); do
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
	kill -9 "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
}

# After a crash the file says -1: the engine's log knows the last transaction. Prints UUID SEQNO.
recovered_state() {
	local seqno at
	seqno=$(state_field seqno)
	if [ "$seqno" -ge 0 ]; then
		echo "$(state_field uuid) $seqno"
		return
	fi
	server_args
	recover
	at=$(recovered_position)
	[ -n "$at" ] || die "member ${DIR##*/} does not know its state: see $DIR/recover.log"
	at=${at%%,*} # a domain may follow
	echo "${at%%:*} ${at#*:}"
}

# ---- the members as a whole ------------------------------------------------------------------

in_member() { # N COMMAND…: with DIR and settings of that member
	local DIR=$TOP/$1
	shift
	load_settings
	"$@"
}

each() { # COMMAND…: in every member that the command line means
	local n
	for n in "${CHOSEN[@]}"; do
		in_member "$n" "$@"
	done
}

collect_dsns() { # one file of all members' lines, and the DSN that names all
	local n hosts=
	for n in dsn admin-dsn; do
		cat "$TOP"/[123]/$n >"$TOP/$n"
	done
	for n in "${MEMBERS[@]}"; do
		hosts+=,127.0.0.1:$(sed -n 's/^PORT=//p' "$TOP/$n/settings")
	done
	echo "mysql://leat:$(<"$TOP/1/password")@${hosts#,}/leat" >"$TOP/dsn-any"
}

galera_select() { # the members meant: all, or the one named
	TOP=$DIR CHOSEN=("${MEMBERS[@]}")
	[ -z "$MEMBER" ] || CHOSEN=("$MEMBER")
}

# The first is made as a plain server, begins a group alone, so that its data names the group, and is
# copied: all three start with the same data and nobody has to fetch it from another.
galera_create() {
	local n
	[ "$TLS" = 0 ] || die "galera has no --tls"
	galera_select
	PORT=0 save_settings
	mkdir "${MEMBERS[@]/#/$TOP/}"
	DIR=$TOP/1 MODE=mariadb create
	in_member 1 stop_server
	give_ports
	in_member 1 write_state "$(</proc/sys/kernel/random/uuid)" 0 0
	bootstrap 1
	in_member 1 stop_server
	for n in 2 3; do
		cp -a "$TOP/1/data" "$TOP/1/password" "$TOP/1/admin-password" "$TOP/$n"
		in_member "$n" write_dsns
	done
	in_member 1 write_dsns
	collect_dsns
	galera_resume
}

give_ports() {
	local n i DIR MODE=member PORT SOCKET
	local -a at
	for n in "${MEMBERS[@]}"; do
		at+=("$(pick_port)")
	done
	for ((i = 0; i < ${#at[@]}; i++)); do
		DIR=$TOP/${MEMBERS[i]} PORT=$(pick_port)
		save_settings
		make_socket_path
		printf 'GROUP=127.0.0.1:%s,127.0.0.1:%s,127.0.0.1:%s\n' "${at[@]}" >>"$DIR/settings"
		printf 'GROUP_PORT=%s\nCOPY_PORT=%s\nCATCH_UP_PORT=%s\n' "${at[i]}" "$(pick_port)" \
			"$(pick_port)" >>"$DIR/settings"
	done
}

any_runs() {
	local n
	for n in "${MEMBERS[@]}"; do
		! DIR=$TOP/$n running || return 0
	done
	return 1
}

join_group() {
	local uuid seqno
	running && return
	read -r uuid seqno < <(recovered_state)
	spawn --wsrep-start-position="$uuid:$seqno"
}

await_member() {
	wait_ready || die "member ${DIR##*/} does not start: see $DIR/log"
}

# Nobody is left to ask: the one with the newest state, of those named, begins a new group, which the
# others then join. What they remember of the old group's membership would make them wait for it.
bootstrap() { # N…
	local n uuid seqno best='' best_uuid='' best_seqno=-2
	for n; do
		rm -f "$TOP/$n/data/gvwstate.dat"
		read -r uuid seqno < <(in_member "$n" recovered_state)
		if [ "$seqno" -gt "$best_seqno" ]; then
			best=$n best_uuid=$uuid best_seqno=$seqno
		fi
	done
	in_member "$best" write_state "$best_uuid" "$best_seqno" 1
	in_member "$best" spawn --wsrep-new-cluster --wsrep-start-position="$best_uuid:$best_seqno"
	in_member "$best" await_member
}

galera_resume() {
	galera_select
	if ! any_runs; then
		[ -z "$MEMBER" ] || die "no member runs: resume all, so that the newest state is found"
		bootstrap "${MEMBERS[@]}"
	fi
	each join_group
	each await_member
	cat "$TOP/dsn"
}

galera_stop() { # the first one last: where a group had its latest state, it begins again
	local i
	galera_select
	for ((i = ${#CHOSEN[@]} - 1; i >= 0; i--)); do
		in_member "${CHOSEN[i]}" stop_server
	done
}

galera_crash() { # all at once, none sees the others go
	local n any=
	galera_select
	for n in "${CHOSEN[@]}"; do
		if DIR=$TOP/$n running; then
			any=yes
			kill -KILL "$PID"
		fi
	done
	[ -n "$any" ] || die "it is not running"
	each wait_gone 10 || die "a member does not end"
}
