import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import {
  createConsulClient,
  openConsul,
  type ConsulClient,
  type ConsulSettings,
  type ServiceRegistration,
} from '../../../shared/discovery/consul-client.ts'
import { checkConsul, edgeConsulOption } from '../../../shared/discovery/options.ts'
import { asOption } from '../../../shared/config/options.ts'
import { parseOptions } from '../../../shared/config/parse.ts'
import type { ConsulOptions } from '../../../shared/discovery/options.ts'
import { makeCertificate } from '../../kit/certificates.ts'
import { edgeEntry, startFakeConsul } from '../../kit/consul.ts'
import { tempFolder } from '../../kit/temp.ts'

const service: ServiceRegistration = {
  id: 'outport-edge-e1',
  name: 'outport-edge',
  address: 'e1.example.com',
  port: 443,
  tags: ['a'],
  meta: { id: 'e1', url: 'https://e1.example.com' },
  check: {
    id: 'service:outport-edge-e1',
    name: 'check',
    notes: 'notes',
    ttlMs: 15_000,
    status: 'passing',
    deregisterAfterMs: 300_000,
  },
}

async function clientOf(
  t: { after(end: () => void): void },
  settings: ConsulSettings,
): Promise<ConsulClient> {
  const client = await createConsulClient(settings)
  t.after(() => client.close())
  return client
}

function optionsOf(written: Readonly<Record<string, unknown>>): ConsulOptions {
  const problems: string[] = []
  const report = (path: string, message: string) => void problems.push(`${path} ${message}`)
  const options = parseOptions(asOption(edgeConsulOption), written, { path: 'consul', report })
  assert.deepEqual(problems, [])
  return options as ConsulOptions
}

test('a service is registered with its check, beats, fails and goes', async (t) => {
  const consul = await startFakeConsul(t)
  const client = await clientOf(t, { url: consul.url })
  await client.register(service)
  await client.pass(service.check.id)
  assert.deepEqual(consul.services.get(service.id)?.registration, {
    ID: service.id,
    Name: 'outport-edge',
    Address: 'e1.example.com',
    Port: 443,
    Tags: ['a'],
    Meta: service.meta,
    Check: {
      CheckID: service.check.id,
      Name: 'check',
      Notes: 'notes',
      TTL: '15000ms',
      Status: 'passing',
      DeregisterCriticalServiceAfter: '300000ms',
    },
  })
  assert.equal(consul.writes(), 1)
  await client.fail(service.check.id, 'a note')
  assert.equal(consul.services.get(service.id)?.output, 'a note')
  await client.deregister(service.id)
  assert.equal(consul.services.size, 0)
  const beat = consul.requests.find(({ path }) => path.startsWith('/v1/agent/check/pass/'))
  assert.equal(beat?.query.size, 0, 'a beat says nothing else')
  assert.equal(beat.headers['user-agent'], 'outport')
})

test('what is asked of services, of nodes and of the agent names datacenter, namespace and partition', async (t) => {
  const consul = await startFakeConsul(t)
  const client = await clientOf(t, {
    url: consul.url,
    datacenter: 'dc2',
    namespace: 'team',
    partition: 'part',
    token: () => Promise.resolve('secret'),
  })
  await client.read('/v1/health/service/outport-edge', { query: { passing: '1' } })
  await client.coordinates()
  await client.self()
  await client.register(service)
  const seen = consul.requests.map(({ path, query, headers }) => [
    path,
    query.get('dc'),
    headers['x-consul-namespace'],
    headers['x-consul-partition'],
    headers['x-consul-token'],
  ])
  assert.deepEqual(seen, [
    ['/v1/health/service/outport-edge', 'dc2', 'team', 'part', 'secret'],
    ['/v1/coordinate/nodes', 'dc2', undefined, 'part', 'secret'],
    ['/v1/agent/self', null, undefined, undefined, 'secret'],
    // An agent is in one datacenter.
    ['/v1/agent/service/register', null, 'team', 'part', 'secret'],
  ])
})

test('a token that is replaced in its file counts at once', async (t) => {
  const consul = await startFakeConsul(t)
  const token_file = join(await tempFolder(t), 'token')
  await writeFile(token_file, 'old\n')
  consul.setToken('new')
  const client = await openConsul(optionsOf({ address: consul.url.origin, token_file }))
  t.after(() => client.close())
  await assert.rejects(client.self(), { code: 'forbidden', status: 403 })
  await assert.rejects(client.register(service), { code: 'forbidden', status: 403 })
  await writeFile(token_file, 'new\n')
  assert.deepEqual(await client.self(), { node: 'here', datacenter: 'dc1' })
  await client.register(service)
  await writeFile(token_file, '')
  await assert.rejects(client.self(), { name: 'ConsulError', code: 'unavailable' })
})

test('the agent is reached over TLS: its CA is trusted there, and our certificate is shown', async (t) => {
  const ca = makeCertificate({ isCa: true, commonName: 'consul-ca', names: [] })
  const agent = makeCertificate({ issuer: ca, names: ['127.0.0.1'] })
  const own = makeCertificate({ issuer: ca, commonName: 'outport', names: ['client.example.com'] })
  const consul = await startFakeConsul(t, { tls: { ...agent, clientCa: ca.cert } })
  const folder = await tempFolder(t)
  const files = { ca: join(folder, 'ca.pem'), cert: join(folder, 'cert'), key: join(folder, 'key') }
  await writeFile(files.ca, ca.cert)
  await writeFile(files.cert, own.cert)
  await writeFile(files.key, own.key)
  const trusting = await openConsul(
    optionsOf({
      address: consul.url.origin,
      ca: files.ca,
      client_cert: { cert: files.cert, key: files.key },
    }),
  )
  t.after(() => trusting.close())
  await trusting.register(service)
  assert.equal((await trusting.self()).node, 'here')
  const stranger = await clientOf(t, { url: consul.url, ca: ca.cert })
  await assert.rejects(stranger.register(service), { code: 'unavailable' })
  const distrusting = await clientOf(t, { url: consul.url, clientCertificate: own })
  await assert.rejects(distrusting.register(service), { code: 'unavailable' })
  await assert.rejects(distrusting.self(), { code: 'unavailable' })
  assert.equal(consul.requests.length, 2)
})

test('each fault has its code, and none says the token', async (t) => {
  const consul = await startFakeConsul(t)
  const client = await clientOf(t, { url: consul.url, token: () => Promise.resolve('s3cret') })
  const cases = [
    [{ status: 500 }, 'unavailable', 500],
    [{ status: 429 }, 'unavailable', 429],
    [{ status: 403 }, 'forbidden', 403],
    [{ status: 400 }, 'refused', 400],
    [{ status: 301 }, 'broken', 301],
    ['cut', 'unavailable', undefined],
  ] as const
  for (const [fault, code, status] of cases) {
    consul.break(fault)
    for (const call of [() => client.self(), () => client.pass('x'), () => client.deregister('x')])
      await assert.rejects(call(), (error: Error) => {
        assert.deepEqual({ ...error }, { name: 'ConsulError', code, status })
        assert.ok(!`${error.stack}${String(error.cause)}`.includes('s3cret'))
        return true
      })
  }
  consul.break({ status: 200, body: 'no JSON' })
  await assert.rejects(client.self(), { code: 'broken' })
  consul.break({ status: 200, body: JSON.stringify('x'.repeat(2 ** 20)) })
  await assert.rejects(client.self(), { code: 'broken' })
  consul.break({ status: 200, body: '{"Config":{}}' })
  await assert.rejects(client.self(), { code: 'broken' })
})

test('a request that is called off ends at once, whoever sends it', async (t) => {
  const consul = await startFakeConsul(t)
  consul.setEntries('outport-edge', [edgeEntry('a')])
  const client = await clientOf(t, { url: consul.url })
  const reason = new Error('called off')
  for (const ask of [
    (signal: AbortSignal) =>
      client.read('/v1/health/service/outport-edge', { query: { index: '1000' }, signal }),
    (signal: AbortSignal) => client.register(service, signal),
  ]) {
    const controller = new AbortController()
    const asking = ask(controller.signal)
    controller.abort(reason)
    await assert.rejects(asking, reason)
  }
  await assert.rejects(client.pass('x', AbortSignal.abort(reason)), reason)
})

test('what cannot be a consul group is said in one line each', () => {
  const problemsOf = (written: Readonly<Record<string, unknown>>) => {
    const problems: string[] = []
    checkConsul(optionsOf(written), (path, message) => void problems.push(`${path} ${message}`))
    return problems
  }
  assert.deepEqual(problemsOf({}), [])
  assert.deepEqual(problemsOf({ address: 'https://consul.example.com:8501' }), [])
  assert.deepEqual(problemsOf({ address: '127.0.0.1:8500' }), [
    'consul.address must be an absolute http or https URL',
  ])
  assert.deepEqual(problemsOf({ address: 'http://a:b@127.0.0.1:8500' }), [
    'consul.address must not hold a user name or password',
  ])
  assert.deepEqual(problemsOf({ address: 'http://127.0.0.1:8500/v1' }), [
    "consul.address must not have a path, query or fragment: 'http://127.0.0.1:8500' is meant",
  ])
  const remote = { address: 'http://consul.example.com:8500', token_file: '/token' }
  assert.deepEqual(problemsOf(remote), [
    'consul would send its token in clear to http://consul.example.com:8500: use https, or insecure_http',
  ])
  assert.deepEqual(problemsOf({ ...remote, insecure_http: true }), [])
  assert.deepEqual(problemsOf({ url: 'https://e1.example.com/v2' }), [
    "consul.url must not have a path, query or fragment: 'https://e1.example.com' is meant",
  ])
})
