"""A migrated schema, looked at and filled through information_schema, so that tests find what is new in it."""

import pymysql

from . import stack


class Schema:
    """A migrated schema and a connection of its owner."""

    def __init__(self, database):
        self.dsn = database.new_schema()
        stack.leat("migrate", "--db", self.dsn)
        self.name = stack.parse_dsn(self.dsn)["database"]
        self.connect()

    def connect(self):
        """A new session."""
        self.connection = stack.connect(self.dsn)

    def rows(self, text, *args):
        with self.connection.cursor(pymysql.cursors.DictCursor) as q:
            q.execute(text, args)
            return q.fetchall()

    def run(self, text, *args):
        with self.connection.cursor() as q:
            q.execute(text, args)
            return q.lastrowid

    def tenant(self, name, partitions=1):
        self.run("CALL tenant_create(%s,NULL,%s)", name, partitions)
        return self.id(name)

    def id(self, name):
        return self.rows("SELECT tenant_id FROM tenant WHERE name=%s", name)[0]["tenant_id"]

    def every_table(self):
        return [r["t"] for r in self.rows("SELECT table_name AS t FROM information_schema.tables WHERE table_schema=%s AND"
                                          " table_type='BASE TABLE' ORDER BY 1", self.name)]

    def tables(self):
        """Those that hold a tenant's rows."""
        return [r["t"] for r in self.rows(
            "SELECT c.table_name AS t FROM information_schema.columns c JOIN information_schema.tables b"
            " ON b.table_schema=c.table_schema AND b.table_name=c.table_name AND b.table_type='BASE TABLE'"
            " WHERE c.table_schema=%s AND c.column_name='tenant_id' ORDER BY 1", self.name)]

    def columns(self, table):
        return self.rows(
            "SELECT column_name AS name, data_type AS type, column_type AS declared, extra AS extra,"
            " character_maximum_length AS n FROM information_schema.columns"
            " WHERE table_schema=%s AND table_name=%s ORDER BY ordinal_position", self.name, table)

    def fill(self, table, tenant_id, i, **given):
        """A row with something different in every column."""
        values = {}
        for c in self.columns(table):
            name, kind = c["name"], c["type"]
            if name in given:
                values[name] = given[name]
            elif "auto_increment" in c["extra"] or "GENERATED" in c["extra"].upper().replace("DEFAULT_GENERATED", ""):
                continue
            elif kind in ("binary", "varbinary"):
                values[name] = (f"{tenant_id}-{i}-{name}".encode() + b"\xff\0'\\" * 8)[:c["n"]]
            elif kind == "longtext":
                values[name] = '[{"topic":"a/ä𝄞","o":0,"l":1}]' if name == "attributes" else '["é\\"𝄞"]'
            elif kind in ("blob", "longblob"):
                values[name] = bytes(range(256)) + bytes([i % 256])
            elif kind == "datetime":
                values[name] = f"2031-02-03 04:05:{i % 60:02d}" + (".678" if "(3)" in c["declared"] else "")
            else:
                values[name] = 1 if kind == "tinyint" else i + len(values)
        values["tenant_id"] = tenant_id
        return self.run(f"INSERT INTO {table}({','.join(values)}) VALUES ({','.join(['%s'] * len(values))})"
                        " ON DUPLICATE KEY UPDATE tenant_id=VALUES(tenant_id)", *values.values())

    def count(self, table, tenant_id):
        return self.rows(f"SELECT COUNT(*) AS n FROM {table} WHERE tenant_id=%s", tenant_id)[0]["n"]
