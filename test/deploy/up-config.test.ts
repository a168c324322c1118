import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { UsageError } from '../../deploy/command-line.ts'
import {
  atSamePorts,
  describeStarted,
  dialable,
  joinPrimary,
  loadUpConfig,
} from '../../deploy/up-config.ts'
import { createCa, issueServerCertificate } from '../../shared/trust/pki.ts'
import { tempFolder } from '../kit/temp.ts'

const metrics = 'http://127.0.0.1:41090'

async function configFile(t: TestContext, text: string): Promise<string> {
  const file = join(await tempFolder(t), 'outport.yaml')
  await writeFile(file, text)
  return file
}

test('without a file there are a primary and an edge that knows it, on this machine only', async (t) => {
  const data = await tempFolder(t)
  const { primary, edge } = joinPrimary(loadUpConfig({ data }), 'http://127.0.0.1:41080')
  assert.deepEqual(
    [...primary.listeners, ...edge.listeners].map(({ address, port }) => `${address}:${port}`),
    ['127.0.0.1:8080', '127.0.0.1:8081', '127.0.0.1:8082'],
  )
  assert.deepEqual([primary.metrics.port, edge.metrics.port], [0, 0])
  const secret = join(data, 'edge-secret')
  assert.deepEqual(
    primary.edges.map(({ name: _name, ...each }) => each),
    [{ id: 'up', credential_file: secret, scope: ['*'], accept_people: true }],
  )
  assert.deepEqual([edge.id, edge.credential_file], ['up', secret])
  const [upstream] = edge.upstreams
  assert.equal(upstream?.url, 'http://127.0.0.1:41080')
  for (const name of ['127.0.0.1:41080', 'localhost:41080']) {
    assert.ok(upstream?.names.includes(name))
  }
})

test('ports and address of the command line win over the file, whose edges stay', async (t) => {
  const config = await configFile(
    t,
    `primary:
  listeners: [{port: 1000}]
  edges: [{id: rack, credential_file: rack-secret}]
edge:
  listeners:
    - {name: hub, port: 1002, default: docker.io, ping: open}
    - {name: own, port: 1001, default: primary}
`,
  )
  const { primary, edge } = loadUpConfig({
    config,
    primaryPort: 2000,
    edgePort: 2001,
    mirrorPort: 0,
  })
  assert.deepEqual(
    primary.listeners.map(({ port }) => port),
    [2000],
  )
  assert.deepEqual(
    edge.listeners.map(({ port }) => port),
    [0, 2001],
  )
  assert.deepEqual(
    primary.edges.map(({ id }) => id),
    ['rack', 'up'],
  )
  assert.deepEqual([primary.metrics.port, edge.metrics.port], [9090, 9091])
})

test('a port for a listener that the file does not have is refused', async (t) => {
  const config = await configFile(
    t,
    'edge: {listeners: [{name: own, port: 1001, default: primary}]}',
  )
  assert.throws(() => loadUpConfig({ config, mirrorPort: 0 }), UsageError)
})

test('beyond this machine log-ins are taken in clear only because --host says so', async (t) => {
  const data = await tempFolder(t)
  const { primary, edge } = loadUpConfig({ data, host: '0.0.0.0' })
  assert.deepEqual(
    primary.listeners.map((each) => each.insecure_http),
    ['all'],
  )
  assert.deepEqual(
    edge.listeners.map((each) => each.insecure_http),
    ['all', 'anonymous'],
  )
  const loopback = loadUpConfig({ data, host: '::1' })
  assert.equal(loopback.primary.listeners[0]?.insecure_http, undefined)
})

test('the edge is told where the primary will be, unless its port is any free one', async (t) => {
  const data = await tempFolder(t)
  const { edge } = loadUpConfig({ data, primaryPort: 9999 })
  assert.equal(edge.primary.url, 'http://127.0.0.1:9999')
  assert.equal(edge.upstreams[0]?.url, edge.primary.url)
  const free = loadUpConfig({ data, primaryPort: 0 })
  assert.equal(
    joinPrimary(free, 'http://127.0.0.1:41080').edge.primary.url,
    'http://127.0.0.1:41080',
  )
})

test('on all addresses every URL that is shown is one for other machines', async (t) => {
  const data = await tempFolder(t)
  const address = Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .find(({ internal, family }) => !internal && family === 'IPv4')?.address
  if (address === undefined) return t.skip('this machine has no address for others')
  const config = loadUpConfig({ data, host: '0.0.0.0', primaryPort: 0, edgePort: 0, mirrorPort: 0 })
  // The programs put their port there, which makes the realm that clients are sent to.
  assert.equal(config.primary.external_url, `http://${address}:0`)
  assert.equal(config.edge.external_url, `http://${address}:0`)
  const started = describeStarted(config, {
    primary: { urls: { primary: 'http://0.0.0.0:41080' }, metrics },
    edge: { urls: { edge: 'http://0.0.0.0:41081', mirror: 'http://0.0.0.0:41082' }, metrics },
  })
  assert.deepEqual(
    [started.primary, started.edge, started.mirror],
    [41080, 41081, 41082].map((port) => `http://${address}:${port}`),
  )
})

test('a primary with TLS is reached by a name of its certificate, with its CA', async (t) => {
  const folder = await tempFolder(t)
  const ca = await createCa('Test CA', new Date())
  const names = { dnsNames: ['registry.example', 'localhost'], ipAddresses: [] }
  const { cert, key } = await issueServerCertificate(ca, { names, now: new Date() })
  await writeFile(join(folder, 's.crt'), cert)
  await writeFile(join(folder, 's.key'), key)
  const config = join(folder, 'outport.yaml')
  await writeFile(
    config,
    'primary: {ca_file: ca.crt, listeners: [{port: 0, tls: {cert: s.crt, key: s.key}}]}\n',
  )
  const { edge } = joinPrimary(loadUpConfig({ config }), 'https://127.0.0.1:41080')
  assert.equal(edge.primary.url, 'https://localhost:41080')
  assert.equal(edge.primary.ca, join(folder, 'ca.crt'))
})

test('a program comes back at the ports that it had', async (t) => {
  const config = loadUpConfig({ data: await tempFolder(t), edgePort: 0, mirrorPort: 0 })
  const before = {
    urls: { edge: 'http://127.0.0.1:41081', mirror: 'http://127.0.0.1:41082' },
    metrics: 'http://127.0.0.1:41091',
  }
  const { edge } = atSamePorts(config, 'edge', before)
  assert.deepEqual(
    edge.listeners.map(({ port }) => port),
    [41081, 41082],
  )
  assert.equal(edge.metrics.port, 41091)
  assert.equal(atSamePorts(config, 'edge', undefined), config)
})

test('an address that stands for all is not one to dial', () => {
  assert.equal(dialable('http://0.0.0.0:80'), 'http://127.0.0.1')
  assert.equal(dialable('http://[::]:8080'), 'http://[::1]:8080')
  assert.equal(dialable('https://10.0.0.5:8443/'), 'https://10.0.0.5:8443')
})
