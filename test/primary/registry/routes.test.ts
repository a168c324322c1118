import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { registryRoutes, type RegistryRouteDeps } from '../../../primary/registry/routes.ts'
import { localDisk, type Disk } from '../../../primary/store/disk.ts'
import { defaultLimits, defaultTimeouts } from '../../../shared/config/server-options.ts'
import { createBlobSender } from '../../../shared/http/send-blob.ts'
import { createHttpServer } from '../../../shared/http/server.ts'
import { createLogger } from '../../../shared/observability/log.ts'
import { createMetrics } from '../../../shared/observability/metrics.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import { expectRefusal, expectStatus, locationOf } from '../../conformance/target.ts'
import { createRegistryClient } from '../../kit/registry-client.ts'
import { createTestUploads } from '../../kit/upload-sessions.ts'

const digest = digestOf(Buffer.from('x'))

/** The routes over services that fail as the test says. */
async function serve(t: TestContext, parts: Partial<RegistryRouteDeps>) {
  const lines: string[] = []
  const log = createLogger({ level: 'error', write: (line) => void lines.push(line) })
  const { http: httpMetrics } = createMetrics('primary', { processMetrics: false })
  const listener = { address: '127.0.0.1', port: 0 }
  const server = await createHttpServer({ name: 'primary', listener, log, httpMetrics })
  const failing = new Proxy(
    {},
    { get: () => () => Promise.reject(new Error('not part of this test')) },
  )
  registryRoutes(server.app, {
    authenticate: async () => ({ kind: 'user', id: 1, name: 'someone', access: undefined }),
    pull: failing as RegistryRouteDeps['pull'],
    discovery: failing as RegistryRouteDeps['discovery'],
    push: failing as RegistryRouteDeps['push'],
    uploads: failing as RegistryRouteDeps['uploads'],
    remove: failing as RegistryRouteDeps['remove'],
    stateTag: () => Promise.resolve(undefined),
    sender: createBlobSender({ maxBufferBytes: 1024 * 1024 }),
    challenge: () => 'Bearer realm="x"',
    drain: { maxBytes: defaultLimits().refused_body, maxMs: defaultTimeouts().refused_body },
    log,
    ...parts,
  })
  const client = createRegistryClient({ baseUrl: await server.listen() })
  t.after(async () => {
    client.close()
    await server.drain(0)
  })
  return { client, lines }
}

function failWith(code: string) {
  const fail = () => Promise.reject(Object.assign(new Error('no room'), { code }))
  return {
    uploads: new Proxy({}, { get: () => fail }) as RegistryRouteDeps['uploads'],
    push: new Proxy({}, { get: () => fail }) as RegistryRouteDeps['push'],
  }
}

test('a full disk, of the bytes or of the records, is answered 507 and is no fault', async (t) => {
  for (const code of ['ENOSPC', 'EDQUOT', '53100']) {
    const { client, lines } = await serve(t, failWith(code))
    const upload = '/v2/library/app/blobs/uploads/00000000-0000-4000-8000-000000000000'
    for (const [method, path] of [
      ['POST', `/v2/library/app/blobs/uploads/?digest=${digest}`],
      ['PATCH', upload],
      ['PUT', `${upload}?digest=${digest}`],
      ['PUT', '/v2/library/app/manifests/v1'],
    ] as const) {
      const refused = await client.request(method, path, { body: Buffer.alloc(100_000) })
      expectRefusal(refused, 507, 'UNAVAILABLE')
      assert.equal(refused.headers['docker-distribution-api-version'], 'registry/2.0')
    }
    assert.deepEqual(lines, [])
  }
})

test('an upload is synced before it is acknowledged; a blob is named, its name synced, and recorded as well', async (t) => {
  const steps: string[] = []
  const { sessions, target } = await createTestUploads(t, {
    disk: recordingDisk(steps),
    adapt: ({ storedBlobs }) => ({
      storedBlobs: {
        ...storedBlobs,
        async commit(...received) {
          const kept = await storedBlobs.commit(...received)
          steps.push('records')
          return kept
        },
      },
    }),
  })
  const { client } = await serve(t, { authenticate: async () => target.caller, uploads: sessions })
  const opened = await client.request('POST', `/v2/${target.repository}/blobs/uploads/`)
  const location = locationOf(opened, client)
  steps.length = 0
  expectStatus(await client.request('PATCH', location, { body: Buffer.from('x') }), 202)
  steps.push('answer')
  expectStatus(await client.request('PUT', location, { query: { digest } }), 201)
  steps.push('answer')
  assert.deepEqual(
    steps.map((step) =>
      step.replace(/[0-9a-f]{32}/, 'key').replace(/blobs\/[0-9a-f]{2}$/, 'blobs/group'),
    ),
    [
      'write',
      'datasync',
      'answer',
      'datasync',
      'rename uploads/key',
      'syncFolder blobs/group',
      'records',
      'answer',
    ],
  )
})

/** The local disk; what is done on it is told when it is done. */
function recordingDisk(steps: string[]): Disk {
  const name = (path: string) => path.replace(/^.*?\/(?=(blobs|uploads)(\/|$))/, '')
  return {
    async write(...write) {
      const bytes = await localDisk.write(...write)
      steps.push('write')
      return bytes
    },
    async datasync(file) {
      await localDisk.datasync(file)
      steps.push('datasync')
    },
    async makeFolder(path) {
      await localDisk.makeFolder(path)
      steps.push(`makeFolder ${name(path)}`)
    },
    async rename(from, to) {
      await localDisk.rename(from, to)
      steps.push(`rename ${name(from)}`)
    },
    async syncFolder(path) {
      await localDisk.syncFolder(path)
      steps.push(`syncFolder ${name(path)}`)
    },
  }
}

test('what breaks is answered 500 with the request id, and logged once; it never reads as absent', async (t) => {
  const { client, lines } = await serve(t, {})
  for (const path of [`/v2/library/app/blobs/${digest}`, '/v2/library/app/manifests/v1']) {
    const answer = await client.request('GET', path, {
      headers: { 'X-Request-Id': 'seen-in-the-log' },
    })
    expectStatus(answer, 500)
    assert.deepEqual(answer.codes(), ['UNKNOWN'])
    assert.match(answer.body.toString(), /seen-in-the-log/)
  }
  assert.equal(lines.length, 2)
})

test('a manifest is pulled by a GET that sends it: not by a HEAD, nor by a GET of what the client holds', async (t) => {
  const pulls: boolean[] = []
  const pull = {
    manifest: async ({ counted }: { counted: (digest: string) => boolean }) => {
      pulls.push(counted(digest))
      return {
        digest,
        head: { 'Content-Length': 1, 'Content-Type': 'a/b' },
        body: Buffer.from('x'),
      }
    },
  } as unknown as RegistryRouteDeps['pull']
  const { client } = await serve(t, { pull })
  for (const [method, condition, status, isPull] of [
    ['GET', undefined, 200, true],
    ['GET', '"sha256:other"', 200, true],
    ['HEAD', undefined, 200, false],
    ['GET', `"${digest}"`, 304, false],
    ['GET', '*', 304, false],
    ['HEAD', '*', 304, false],
  ] as const) {
    const headers = condition === undefined ? {} : { 'If-None-Match': condition }
    const answer = await client.request(method, '/v2/library/app/manifests/v1', { headers })
    expectStatus(answer, status)
    assert.equal(pulls.pop(), isPull, `${method} ${condition ?? ''}`)
  }
})

test('a blob that cannot be read to its end is cut short, and the fault is logged', async (t) => {
  const handle = {
    size: 3 * 1024 * 1024,
    read: async (buffer: Buffer, offset: number) => {
      if (offset > 0) throw new Error('the disk is broken')
      return Math.min(buffer.length, 1024 * 1024)
    },
    closed: false,
    async close() {
      this.closed = true
    },
  }
  const pull = {
    openBlob: async () => ({ digest, handle }),
  } as unknown as RegistryRouteDeps['pull']
  const { client, lines } = await serve(t, { pull })
  await assert.rejects(client.request('GET', `/v2/library/app/blobs/${digest}`))
  assert.equal(handle.closed, true)
  assert.equal(lines.length, 1)
  assert.match(lines[0] ?? '', /the disk is broken/)
})
