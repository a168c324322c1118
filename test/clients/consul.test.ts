import assert from 'node:assert/strict'
import { Resolver } from 'node:dns/promises'
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { test, type TestContext } from 'node:test'
import {
  createConsulClient,
  type ConsulClient,
  type ConsulSettings,
} from '../../shared/discovery/consul-client.ts'
import { watchMembers, type Members } from '../../shared/discovery/members.ts'
import { announce, keepRegistered } from '../../shared/discovery/registration.ts'
import { serviceOf } from '../../shared/discovery/service.ts'
import { makeCertificate } from '../kit/certificates.ts'
import { waitFor } from '../kit/clock.ts'
import { createRecordingLog } from '../kit/http-server.ts'
import { tempFolder } from '../kit/temp.ts'
import { configPath, mayRunContainerd, startContainerd } from './containerd.ts'
import { startConsulAgent, type ConsulAgent } from './consul.ts'
import { startDockerd } from './dockerd.ts'
import { printed, pushRandomImage } from './images.ts'
import { edgeName, primaryName, runOutport, startOutport, subfolder, testHosts } from './outport.ts'
import { isEdgeBlob, waitForRequests } from './requests.ts'
import { requireRoot, requireTools } from './tools.ts'

const timeout = 120_000
const edgePath = '/v1/health/service/outport-edge'

function edge(id: string, ttlMs = 15_000) {
  return serviceOf('outport-edge', {
    id,
    url: `https://${id}.example.com`,
    version: '1.0.0',
    site: 'berlin',
    region: 'eu',
    ttlMs,
    deregisterAfterMs: 60_000,
  })
}

/** A client that counts what it was asked. */
async function countingClient(t: TestContext, settings: ConsulSettings) {
  const client = await createConsulClient(settings)
  t.after(() => client.close())
  const counts = { pass: 0, read: 0 }
  const counting: ConsulClient = {
    ...client,
    async pass(...given) {
      await client.pass(...given)
      counts.pass++
    },
    async read(...given) {
      const answer = await client.read(...given)
      counts.read++
      return answer
    },
  }
  return { client: counting, counts }
}

function watch(
  t: TestContext,
  client: ConsulClient,
  roster: readonly string[],
): { readonly members: Members; readonly ids: () => string } & ReturnType<
  typeof createRecordingLog
> {
  const recording = createRecordingLog()
  const members = watchMembers({ client, roster: () => roster, log: recording.log })
  t.after(() => members.close())
  const ids = () =>
    members
      .list()
      .map(({ id }) => id)
      .join(' ')
  return { members, ids, ...recording }
}

interface HealthEntry {
  readonly Node: { readonly Node: string }
  readonly Service: { readonly ID: string; readonly Meta: Readonly<Record<string, string>> }
  readonly Checks: readonly {
    readonly CheckID: string
    readonly Status: string
    readonly Output: string
  }[]
}

const entriesOf = async (consul: ConsulAgent) =>
  (await consul.call('GET', `${edgePath}?passing=1`)) as readonly HealthEntry[]

test(
  'an edge is seen at once, writes nothing while all is well, comes back after the agent, and goes when it is told to',
  { timeout },
  async (t) => {
    if (!requireTools(t, 'consul')) return
    const consul = await startConsulAgent(t)
    const { client, counts } = await countingClient(t, { url: consul.url })
    const { log, lines } = createRecordingLog()
    const registration = keepRegistered({ client, service: edge('e1', 1500), log })
    t.after(() => registration.close())
    const { ids } = watch(t, client, ['e1'])
    await waitFor('e1', () => ids() === 'e1')
    const [entry] = await entriesOf(consul)
    assert.deepEqual(entry?.Service.Meta, {
      id: 'e1',
      url: 'https://e1.example.com',
      version: '1.0.0',
      site: 'berlin',
      region: 'eu',
    })

    // The agent's own start has writes of its own.
    await waitFor('the first beats', () => counts.pass > 2)
    const before = await consul.writes()
    await waitFor('ten beats', () => counts.pass > 12)
    assert.equal(await consul.writes(), before)
    const [check] =
      (await entriesOf(consul))[0]?.Checks.filter(({ CheckID: id }) => id !== 'serfHealth') ?? []
    assert.equal(check?.Output, '')

    await consul.restart()
    assert.equal(ids(), 'e1', 'Consul away says nothing new')
    await waitFor('e1 again', async () => (await entriesOf(consul)).length === 1)
    await registration.close()
    assert.deepEqual(await entriesOf(consul), [])
    await waitFor('nobody', () => ids() === '', { timeoutMs: 40_000 })
    assert.ok(lines.every(({ level, msg }) => level !== 'warn' || msg.startsWith('not registered')))
  },
)

test('an edge that dies is gone when its check lapses', { timeout }, async (t) => {
  if (!requireTools(t, 'consul')) return
  const consul = await startConsulAgent(t)
  const { client } = await countingClient(t, { url: consul.url })
  const { ids } = watch(t, client, ['e1'])
  await client.register(edge('e1', 2000))
  await waitFor('e1', () => ids() === 'e1')
  await waitFor('nobody', () => ids() === '')
  // As after a while without it.
  const registration = keepRegistered({
    client,
    service: edge('e1', 2000),
    log: createRecordingLog().log,
  })
  t.after(() => registration.close())
  await waitFor('e1 again', () => ids() === 'e1')
})

test('fifty flaps a second wake a watch once a second', { timeout }, async (t) => {
  if (!requireTools(t, 'consul')) return
  const consul = await startConsulAgent(t)
  const { client, counts } = await countingClient(t, { url: consul.url })
  for (const id of ['e1', 'flapping']) await client.register(edge(id))
  const recording = createRecordingLog()
  let changes = 0
  const members = watchMembers({
    client,
    roster: () => ['e1'],
    log: recording.log,
    onChange: () => {
      changes++
    },
  })
  t.after(() => members.close())
  await members.ready
  await waitFor('the coordinates', () => counts.read >= 1)
  const path = '/v1/agent/check/update/service:outport-edge-flapping'
  const before = counts.read
  const writesBefore = await consul.writes()
  const startedAt = performance.now()
  let flaps = 0
  while (performance.now() - startedAt < 6000) {
    // Another text each time is another write, and every one of them would wake a watch.
    await consul.call('PUT', path, {
      Status: flaps % 2 === 0 ? 'critical' : 'passing',
      Output: String(flaps),
    })
    flaps++
    const next = startedAt + flaps * 20
    await waitFor('the next flap', () => performance.now() >= next)
  }
  const seconds = (performance.now() - startedAt) / 1000
  const writes = (await consul.writes()) - writesBefore
  assert.ok(flaps / seconds > 30, `${flaps} flaps in ${seconds} s`)
  assert.ok(writes > 2 * seconds, `${writes} writes in ${seconds} s`)
  assert.ok(counts.read - before <= seconds + 1, `${counts.read - before} wakes in ${seconds} s`)
  assert.ok(counts.read - before >= 2, 'it was woken')
  assert.ok(changes <= seconds + 2)
})

test(
  'who may write to Consul can neither become an edge nor move one, and is said once a kind',
  { timeout },
  async (t) => {
    if (!requireTools(t, 'consul')) return
    const consul = await startConsulAgent(t)
    const { client } = await countingClient(t, { url: consul.url })
    const { ids, lines } = watch(t, client, ['e1', 'e2'])
    const rogue = (id: string, meta: Readonly<Record<string, string>>) =>
      consul.call('PUT', '/v1/agent/service/register', {
        ID: id,
        Name: 'outport-edge',
        Port: 1,
        Meta: meta,
      })
    await rogue('stranger', { id: 'stranger', url: 'https://stranger.example.com' })
    await rogue('newline', { id: 'e2', url: 'https://e2.example.com\n[host."https://rogue"]' })
    await rogue('newline-2', { id: 'e2', url: 'https://e2.example.com', site: 'a\nb' })
    await rogue('credentials', { id: 'e2', url: 'https://u:p@e2.example.com' })
    await client.register(edge('e1'))
    await waitFor('e1', () => ids() === 'e1')
    await rogue('moved', { id: 'e1', url: 'https://rogue.example.com' })
    await waitFor('nobody: it is not known which of the two is e1', () => ids() === '')
    assert.deepEqual(
      lines
        .filter(({ level }) => level === 'warn')
        .map(({ reason }) => reason)
        .sort(),
      ['ambiguous', 'bad-url', 'control-characters', 'not-in-roster'],
    )
  },
)

/** The documentation's shell commands, or what else it shows, that have this word, as they stand there. */
async function documented(word: string, language: 'sh' | 'hcl' = 'sh'): Promise<string> {
  const text = await readFile(resolve(import.meta.dirname, '../../docs/consul.md'), 'utf8')
  const shown = new RegExp(`^\`\`\`${language}\\n([^]*?)^\`\`\`$`, 'gm')
  const blocks = [...text.matchAll(shown)].map(([, block = '']) => block)
  const found = blocks.filter((block) => block.includes(word))
  assert.equal(found.length, 1, `one block of docs/consul.md with ${word}`)
  return found[0] ?? ''
}

test(
  'with ACLs, the documented policy is enough and no token is too little; one that is replaced counts',
  { timeout },
  async (t) => {
    if (!requireTools(t, 'consul')) return
    const consul = await startConsulAgent(t, { acl: true })
    const created = await consul.shell(await documented('acl policy create'))
    assert.equal(created.code, 0, created.stderr)
    const [, secret = ''] = /SecretID: +(\S+)/.exec(created.stdout) ?? []
    const tokenFile = join(await tempFolder(t), 'token')
    await writeFile(tokenFile, '99999999-2222-3333-4444-555555555555\n')
    const { log, lines } = createRecordingLog()
    const options = {
      address: consul.url.origin,
      token_file: tokenFile,
      insecure_http: false,
      ttl: 2000,
      deregister_after: 60_000,
      tags: ['pull'],
    } as const
    const announced = {
      name: 'outport-edge',
      id: 'e1',
      url: 'https://e1.example.com',
      version: '1',
    } as const
    const registration = await announce(options, { announced, log })
    t.after(() => registration.close())
    await waitFor('the warning', () => lines.some(({ level }) => level === 'warn'))
    assert.deepEqual(await entriesOf(consul), [])
    await writeFile(tokenFile, `${secret}\n`)
    await waitFor('e1', async () => (await entriesOf(consul)).length === 1)
    const { client } = await countingClient(t, {
      url: consul.url,
      token: () => Promise.resolve(secret),
    })
    const { ids } = watch(t, client, ['e1'])
    await waitFor('e1', () => ids() === 'e1')
    assert.equal((await client.self()).node, 'here')
    await client.coordinates()
    // A machine that pulls only looks.
    const rules = await documented('{ policy = "read" }', 'hcl')
    const reader = await consul.shell(`consul acl policy create -name reader -rules - <<'END'
${rules}END
consul acl token create -description reader -policy-name reader`)
    const [, readerSecret = ''] = /SecretID: +(\S+)/.exec(reader.stdout) ?? []
    const { client: looking } = await countingClient(t, {
      url: consul.url,
      token: () => Promise.resolve(readerSecret),
    })
    const { ids: seen } = watch(t, looking, ['e1'])
    await waitFor('e1 for who reads', () => seen() === 'e1')
    assert.equal((await looking.self()).node, 'here')
    await looking.coordinates()
    await assert.rejects(looking.register(edge('e2')))
    await registration.close()
    assert.deepEqual(await entriesOf(consul), [])
  },
)

/** Nodes that are 5, 20 and 80 ms from ours, with an edge each, as their own agents would have told the servers. */
async function placeEdges(consul: ConsulAgent): Promise<void> {
  const at = (ms: number) => ({
    Vec: [ms / 1000, 0, 0, 0, 0, 0, 0, 0],
    Error: 0.1,
    Adjustment: 0,
    Height: 0.00001,
  })
  const placed = [
    { node: 'node-far', ms: 80, address: '127.0.1.2' },
    { node: 'node-near', ms: 5, address: '127.0.1.3' },
    { node: 'node-mid', ms: 20, address: '127.0.1.1' },
  ]
  for (const { node, ms, address } of placed) {
    const id = node.replace('node', 'edge')
    const service = edge(id)
    await consul.call('PUT', '/v1/catalog/register', {
      Node: node,
      Address: address,
      Service: {
        ID: service.id,
        Service: service.name,
        Address: address,
        Port: 443,
        Meta: service.meta,
      },
      Check: { CheckID: service.check.id, ServiceID: service.id, Name: 'c', Status: 'passing' },
    })
    await consul.call('PUT', '/v1/coordinate/update', { Node: node, Coord: at(ms) })
  }
  await consul.call('PUT', '/v1/coordinate/update', { Node: 'here', Coord: at(0) })
  // The servers write them down every few seconds.
  await waitFor(
    'the coordinates',
    async () => {
      const nodes = (await consul.call('GET', '/v1/coordinate/nodes')) as readonly unknown[]
      return nodes.length === 4
    },
    { timeoutMs: 30_000 },
  )
}

test(
  'the nearest come first: in our members, in the documented look-ups, and in DNS',
  { timeout },
  async (t) => {
    if (!requireTools(t, 'consul', 'curl')) return
    const consul = await startConsulAgent(t)
    await placeEdges(consul)
    const { client } = await countingClient(t, { url: consul.url })
    const { members } = watch(t, client, ['edge-far', 'edge-near', 'edge-mid'])
    const estimates = await waitFor('the distances', () => {
      const list = members.list().map(({ id, estimateMs }) => [id, Math.round(estimateMs ?? -1)])
      return list.length === 3 && list.every(([, ms]) => ms !== -1) && list
    })
    assert.deepEqual(estimates, [
      ['edge-far', 80],
      ['edge-mid', 20],
      ['edge-near', 5],
    ])

    const order = ['node-near', 'node-mid', 'node-far']
    const nodesOf = (entries: readonly HealthEntry[]) => entries.map(({ Node: { Node } }) => Node)
    const looked = await consul.shell(await documented('near=_agent'))
    assert.equal(looked.code, 0, looked.stderr)
    assert.deepEqual(nodesOf(JSON.parse(looked.stdout) as readonly HealthEntry[]), order)
    const made = await consul.shell(await documented('-X POST "$CONSUL_HTTP_ADDR/v1/query"'))
    assert.equal(made.code, 0, made.stderr)
    for (let count = 0; count < 5; count++) {
      const executed = await consul.shell(await documented('/execute?'))
      assert.equal(executed.code, 0, executed.stderr)
      const { Nodes: nodes } = JSON.parse(executed.stdout) as {
        readonly Nodes: readonly HealthEntry[]
      }
      assert.deepEqual(nodesOf(nodes), order)
    }

    const resolver = new Resolver()
    resolver.setServers([`127.0.0.1:${consul.dnsPort}`])
    const addresses = ['127.0.1.3', '127.0.1.1', '127.0.1.2']
    for (let count = 0; count < 10; count++)
      assert.deepEqual(await resolver.resolve4('outport-edge-near.query.consul'), addresses)
    assert.deepEqual(
      (await resolver.resolve4('outport-edge.service.consul')).sort(),
      addresses.toSorted(),
    )
    assert.equal((await resolver.resolveSrv('outport-edge.service.consul'))[0]?.port, 443)
  },
)

test('an agent behind TLS takes who shows a certificate', { timeout }, async (t) => {
  if (!requireTools(t, 'consul')) return
  const folder = await tempFolder(t)
  const ca = makeCertificate({ isCa: true, commonName: 'ca', names: [] })
  const own = makeCertificate({ issuer: ca, names: ['127.0.0.1', 'localhost'] })
  const files = { ca: join(folder, 'ca'), cert: join(folder, 'cert'), key: join(folder, 'key') }
  await writeFile(files.ca, ca.cert)
  await writeFile(files.cert, own.cert)
  await writeFile(files.key, own.key)
  const consul = await startConsulAgent(t, { tls: files })
  const { client } = await countingClient(t, {
    url: consul.url,
    ca: ca.cert,
    clientCertificate: own,
  })
  const { ids } = watch(t, client, ['e1'])
  await waitFor('the agent', () => client.self().catch(() => undefined))
  const registration = keepRegistered({
    client,
    service: edge('e1'),
    log: createRecordingLog().log,
  })
  t.after(() => registration.close())
  await waitFor('e1', () => ids() === 'e1', { timeoutMs: 30_000 })
  const { client: stranger } = await countingClient(t, { url: consul.url, ca: ca.cert })
  await assert.rejects(stranger.self(), { code: 'unavailable' })
  await assert.rejects(stranger.pass('x'), { code: 'unavailable' })
})

test(
  'containerd pulls from the edge that outport hosts --near found by the agent, and by the primary alone',
  { timeout },
  async (t) => {
    if (!requireTools(t, 'consul', 'curl', 'crane') || !mayRunContainerd(t, '2.4')) return
    const consul = await startConsulAgent(t)
    const outport = await startOutport(t, { consul: consul.url.origin })
    const image = `${outport.primary}/library/app:v1`
    await pushRandomImage(outport, image)
    await waitFor('the edge', async () => {
      const answer = await fetch(`http://${outport.primary}/service/edges`)
      return (await answer.text()).includes(outport.edge)
    })
    await waitFor('its registration', async () => (await entriesOf(consul)).length === 1)
    const folder = await subfolder(outport, 'certs.d')
    const near = ['--near', '--primary', `http://${outport.primary}`, '--plain-http']
    const seen = ['--consul', consul.url.origin]
    await runOutport(['hosts', 'containerd', ...near, ...seen, '--root', folder])
    const path = join(folder, outport.primary, 'hosts.toml')
    assert.match(await readFile(path, 'utf8'), new RegExp(`host."http://${outport.edge}"`))
    const again = await runOutport(['hosts', 'containerd', ...near, '--root', folder])
    assert.match(again, /nothing to change/)
    const containerd = await startContainerd(t, outport, {
      version: '2.4',
      config: configPath('2.4', folder),
    })
    printed(await containerd.crictl(['pull', image]))
    await waitForRequests(outport, (requests) => requests.some(isEdgeBlob))
  },
)

test(
  "docker pulls the primary's images by the primary's name from the edge that Consul's DNS leads to",
  { timeout: 300_000 },
  async (t) => {
    if (!requireTools(t, 'consul', 'curl', 'dockerd', 'crane') || !requireRoot(t)) return
    const consul = await startConsulAgent(t)
    const outport = await startOutport(t, { tls: true, consul: consul.url.origin })
    const made = await consul.shell(await documented('-X POST "$CONSUL_HTTP_ADDR/v1/query"'))
    assert.equal(made.code, 0, made.stderr)
    const resolver = new Resolver()
    resolver.setServers([`127.0.0.1:${consul.dnsPort}`])
    const { name, port } = await waitFor('the edge', async () => {
      const [found] = await resolver.resolveSrv('outport-edge-near.query.consul').catch(() => [])
      return found
    })
    assert.equal(`${name}:${port}`, outport.edge)
    const primaries = await resolver.resolveSrv('outport-primary.service.consul')
    assert.deepEqual(
      primaries.map((primary) => `${primary.name}:${primary.port}`),
      [outport.primary],
    )

    await pushRandomImage(outport, `${outport.primary}/library/app:v1`)
    // What split DNS does: the primary's name leads where the query leads.
    const image = `${primaryName}:${port}/library/app:v1`
    const certsDir = await subfolder(outport, 'certs.d')
    await mkdir(join(certsDir, `${primaryName}:${port}`))
    await copyFile(outport.ca, join(certsDir, `${primaryName}:${port}`, 'ca.crt'))
    const { docker, stop } = await startDockerd({
      dir: await subfolder(outport, 'docker'),
      certsDir,
      hosts: { ...testHosts, [primaryName]: testHosts[edgeName] },
    })
    t.after(stop)
    const logIn = ['login', '-u', 'admin', '--password-stdin', `${primaryName}:${port}`]
    printed(await docker(logIn, { input: outport.password }))
    printed(await docker(['pull', image]))
    await waitForRequests(outport, (requests) => requests.some(isEdgeBlob))
    const refused = await docker(['push', image])
    assert.notEqual(refused.code, 0)
    assert.match(
      refused.stdout + refused.stderr,
      /this is an edge, which only reads: push to https:/,
    )
  },
)
