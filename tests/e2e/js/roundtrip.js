// MQTT.js against a node: node roundtrip.js '{"url":…,"ca":…,"token":…,"version":4|5,"topic":…}'
// Subscribes, publishes QoS 0 and 1 with properties, resumes a session; prints one JSON line.
'use strict'
const fs = require('fs')
const mqtt = require('mqtt')

const o = JSON.parse(process.argv[2])
const options = (extra) => Object.assign({
  protocolVersion: o.version, username: 'js', password: o.token, ca: fs.readFileSync(o.ca),
  reconnectPeriod: 0, connectTimeout: 10000
}, extra)
const once = (emitter, name) => new Promise((resolve, reject) => {
  emitter.once(name, (...args) => resolve(args))
  emitter.once('error', reject)
})
const call = (object, method, ...args) => new Promise((resolve, reject) =>
  object[method](...args, (error, value) => error ? reject(error) : resolve(value)))
const kept = o.version === 5
  ? { clean: false, clientId: o.topic + '-js', properties: { sessionExpiryInterval: 60 } }
  : { clean: false, clientId: o.topic + '-js' }

const collect = (client, n) => new Promise((resolve) => {
  const got = []
  client.on('message', (topic, payload, packet) => {
    got.push({ topic, payload: payload.toString(), qos: packet.qos, properties: packet.properties })
    if (got.length === n) resolve(got)
  })
})

async function main () {
  const sub = mqtt.connect(o.url, options(kept))
  await once(sub, 'connect')
  const granted = await call(sub, 'subscribe', o.topic + '/#', { qos: 1 })
  const first = collect(sub, 3)
  const pub = mqtt.connect(o.url, options({}))
  await once(pub, 'connect')
  const properties = o.version === 5
    ? { contentType: 'text/plain', userProperties: { a: ['1', '2'], b: '3' } }
    : undefined
  await call(pub, 'publish', o.topic + '/1', 'one', { qos: 1, properties })
  await call(pub, 'publish', o.topic + '/2', 'zwei é', { qos: 0 })
  await call(pub, 'publish', o.topic + '/3', '', { qos: 1 })
  const got = await first
  await call(sub, 'end', false, {})
  await call(pub, 'publish', o.topic + '/4', 'while away', { qos: 1 })
  const again = mqtt.connect(o.url, options(kept))
  const rest = collect(again, 1)
  const [connack] = await once(again, 'connect')
  const missed = await rest
  await call(again, 'end', false, {})
  await call(pub, 'end', false, {})
  console.log(JSON.stringify({ granted, got, present: connack.sessionPresent, missed }))
}

main().catch((error) => { console.error(error); process.exit(1) })
setTimeout(() => { console.error('not within 20 s'); process.exit(1) }, 20000).unref()
