import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { after, before, describe, test, type TestContext } from 'node:test'
import { primarySection, type PrimaryConfig } from '../../primary/config.ts'
import { startPrimary } from '../../primary/main.ts'
import { postgresProcessesIn, signal } from '../../primary/store/postgres-processes.ts'
import { loadConfig } from '../../shared/config/load.ts'
import { createLogger } from '../../shared/observability/log.ts'
import { expectRefusal, expectStatus } from '../conformance/target.ts'
import { waitFor } from '../kit/clock.ts'
import { bytesOf, contentOf, createImage, pushBlob, pushImage } from '../kit/images.ts'
import { startTestPrimary } from '../kit/primary.ts'
import { isAlive } from '../kit/processes.ts'
import { createRegistryClient, type ClientOptions } from '../kit/registry-client.ts'
import { tempFolder } from '../kit/temp.ts'

const admin = { username: 'admin', password: 'Admin-12345' }
const log = createLogger({ level: 'error', write: () => undefined })

function configOf(data: string, primary: Readonly<Record<string, unknown>> = {}): PrimaryConfig {
  return loadConfig({
    sections: [primarySection],
    env: {},
    flags: {
      data: join(data, 'data'),
      primary: {
        listeners: [{ port: 0 }],
        internal: { port: 0 },
        metrics: { port: 0 },
        admin_password: admin.password,
        ...primary,
      },
    },
  })
}

const start = (config: PrimaryConfig) => startPrimary(config, { log, processMetrics: false })

function clientOf(t: TestContext, options: ClientOptions) {
  const client = createRegistryClient(options)
  t.after(() => client.close())
  return client
}

describe('with an embedded database', () => {
  let folder = ''
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'outport-main-'))
  })
  after(() => rm(folder, { recursive: true, force: true }))
  const image = createImage({ seed: 'kept' })

  test('it starts on an empty folder, and stops without leaving anything behind', async (t) => {
    const config = configOf(folder)
    const running = await start(config)
    t.after(() => running.stop(0))
    const postgres = await postgresPid(config)
    const baseUrl = running.urls['primary'] ?? ''
    const pusher = clientOf(t, { baseUrl, credentials: admin, scheme: 'bearer' })
    await pushImage(pusher, 'library/kept', image, 'v1')
    await running.stop(1000)
    assert.equal(isAlive(postgres), false)
    await assert.rejects(fetch(baseUrl))
  })

  test('a second start finds everything again', async (t) => {
    const running = await start(configOf(folder, { admin_password: undefined }))
    t.after(() => running.stop(0))
    const client = clientOf(t, { baseUrl: running.urls['primary'] ?? '' })
    const got = await client.request('GET', '/v2/library/kept/manifests/v1')
    assert.deepEqual(got.body, image.manifest.bytes)
    const metrics = await (await fetch(new URL('/metrics', running.metrics))).text()
    for (const name of [
      'outport_http_requests_total',
      'outport_primary_database_query_seconds_count',
      'outport_primary_blob_sent_bytes_total',
      'outport_primary_uploads_running',
    ]) {
      assert.ok(metrics.includes(name), name)
    }
    assert.equal((await fetch(new URL('/readyz', running.urls['primary']))).status, 200)
  })

  test('a database server that was killed is started again, and nothing acknowledged is lost', async (t) => {
    const config = configOf(folder)
    const running = await start(config)
    t.after(() => running.stop(0))
    const pusher = clientOf(t, { baseUrl: running.urls['primary'] ?? '', credentials: admin })
    const blob = contentOf(bytesOf('before the kill', 1000))
    expectStatus(await pushBlob(pusher, 'library/app', blob), 201)
    const killed = await postgresPid(config)
    process.kill(killed, 'SIGKILL')
    await waitFor(
      'the primary to serve again',
      async () => {
        if ((await postgresPid(config).catch(() => killed)) === killed) return false
        const after = contentOf(bytesOf('after', 10))
        return (await pushBlob(pusher, 'library/app', after)).status === 201
      },
      { timeoutMs: 30_000 },
    )
    const got = await pusher.request('GET', `/v2/library/app/blobs/${blob.digest}`)
    assert.deepEqual(got.body, blob.bytes)
  })

  test('a database server that hangs is not ready, and that is answered', async (t) => {
    const config = configOf(folder)
    const running = await start(config)
    t.after(() => running.stop(0))
    const hung = postgresProcessesIn(config.data)
    const signalAll = (name: NodeJS.Signals) => {
      for (const { pid } of hung) signal(pid, name)
    }
    t.after(() => signalAll('SIGCONT'))
    signalAll('SIGSTOP')
    const answer = await fetch(new URL('/readyz', running.metrics))
    assert.equal(answer.status, 503)
    assert.match(await answer.text(), /no answer in time/)
    signalAll('SIGCONT')
    await waitFor('it to be ready', async () => {
      const again = await fetch(new URL('/readyz', running.metrics))
      await again.arrayBuffer()
      return again.ok
    })
  })

  test('a clean stop has nothing to warn of', async () => {
    const lines: string[] = []
    const running = await startPrimary(configOf(folder), {
      log: createLogger({ level: 'warn', write: (line) => lines.push(line) }),
      processMetrics: false,
    })
    await running.stop(1000)
    assert.deepEqual(lines, [])
  })

  test('a stop during the restart of the database server ends both', async (t) => {
    const lines: string[] = []
    const config = configOf(folder)
    const running = await startPrimary(config, {
      log: createLogger({ level: 'error', write: (line) => lines.push(line) }),
      processMetrics: false,
    })
    t.after(() => running.stop(0))
    process.kill(await postgresPid(config), 'SIGKILL')
    await waitFor('the restart to begin', () => lines.some((line) => /started again/.test(line)))
    await running.stop(0)
    assert.deepEqual(postgresProcessesIn(config.data), [])
  })

  test('a start that is broken off ends with the reason, and leaves no process behind', async () => {
    const config = configOf(folder)
    const cut = new AbortController()
    const starting = startPrimary(config, { log, processMetrics: false, signal: cut.signal })
    const ended = assert.rejects(starting, { message: 'enough' })
    await waitFor('the database server', () => postgresProcessesIn(config.data).length > 0)
    cut.abort(new Error('enough'))
    await ended
    assert.deepEqual(postgresProcessesIn(config.data), [])
  })

  test('a start that fails says why, and leaves no process behind', async (t) => {
    const taken = createServer()
    taken.listen(0, '127.0.0.1')
    await once(taken, 'listening')
    t.after(() => taken.close())
    const address = taken.address()
    assert.ok(address !== null && typeof address === 'object')
    const config = configOf(folder, { listeners: [{ port: address.port }] })
    await assert.rejects(start(config), { code: 'EADDRINUSE' })
    assert.equal(await postgresPid(config).then(isAlive, () => false), false)
  })
})

describe('configuration', () => {
  test('edges of the configuration log in as themselves, and pull what they may', async (t) => {
    const folder = await tempFolder(t)
    const credential_file = join(folder, 'edge-secret')
    await writeFile(credential_file, 'an-edge-secret-of-128-random-bits\n')
    const primary = await startTestPrimary({
      primary: { edges: [{ id: 'site-one', credential_file, scope: ['*'] }] },
    })
    const image = createImage({ seed: 'for the edge' })
    await primary.createProject('private', { isPublic: false })
    await pushImage(primary.client(primary.admin), 'private/app', image, 'v1')
    const edge = primary.client({
      username: 'edge$site-one',
      password: 'an-edge-secret-of-128-random-bits',
    })
    expectStatus(await edge.request('GET', '/v2/private/app/manifests/v1'), 200)
    expectStatus(await edge.request('GET', `/v2/private/app/blobs/${image.blobs[0]?.digest}`), 200)
    expectRefusal(
      await pushBlob(edge, 'private/app', contentOf(Buffer.from('x'))),
      401,
      'UNAUTHORIZED',
    )
    expectStatus(await primary.client().request('GET', '/v2/private/app/manifests/v1'), 401)
  })

  test('without a first password there is no first account', async () => {
    await assert.rejects(
      startTestPrimary({ primary: { admin_password: undefined } }),
      /set primary\.admin_password/,
    )
  })

  test('an edge whose credential is missing keeps the primary from starting', async () => {
    await assert.rejects(
      startTestPrimary({ primary: { edges: [{ id: 'e', credential_file: '/nowhere/secret' }] } }),
      /credential file of the edge e is missing/,
    )
  })

  test('a listener for public content takes no log-in of any form', async () => {
    const primary = await startTestPrimary({
      primary: { listeners: [{ port: 0 }, { port: 0, insecure_http: 'anonymous' }] },
    })
    await primary.createProject('secret', { isPublic: false })
    const pusher = primary.client(primary.admin)
    for (const repository of ['library/open', 'secret/app']) {
      await pushImage(pusher, repository, createImage({ seed: repository }), 'v1')
    }
    const open = createRegistryClient({
      baseUrl: primary.urls['primary-2'] ?? '',
      credentials: primary.admin,
    })
    expectStatus(await open.request('GET', '/v2/library/open/manifests/v1'), 200)
    expectStatus(await open.request('GET', '/v2/secret/app/manifests/v1'), 401)
    expectStatus(await pushBlob(open, 'library/open', contentOf(Buffer.from('x'))), 401)
    expectStatus(await open.request('GET', '/api/v2.0/users/current'), 401)
    const form = Buffer.from(
      `grant_type=password&username=admin&password=${primary.admin.password}&service=outport`,
    )
    const refused = await open.request('POST', '/service/token', {
      body: form,
      headers: { 'Content-Type': 'application/x-www-form-urlencoded' },
    })
    expectRefusal(refused, 403, 'DENIED')
    open.close()
  })

  test('tokens come from the realm that the challenge names, and open what they were asked for', async () => {
    const primary = await startTestPrimary()
    const ping = await primary.client().request('GET', '/v2/')
    expectRefusal(ping, 401, 'UNAUTHORIZED')
    assert.equal(
      ping.headers['www-authenticate'],
      `Bearer realm="${primary.url.origin}/service/token",service="outport"`,
    )
    const client = primary.client(primary.admin, 'bearer')
    expectStatus(await client.request('GET', '/v2/'), 200)
    await pushImage(client, 'library/app', createImage({ seed: 'token' }), 'v1')
    const anonymous = createRegistryClient({ baseUrl: primary.url, scheme: 'bearer' })
    expectStatus(await anonymous.request('GET', '/v2/'), 200)
    expectStatus(await anonymous.request('GET', '/v2/library/app/manifests/v1'), 200)
    const refused = await pushBlob(anonymous, 'library/app', contentOf(Buffer.from('x')))
    expectRefusal(refused, 401, 'UNAUTHORIZED')
    assert.match(String(refused.headers['www-authenticate']), /error="insufficient_scope"/)
    anonymous.close()
  })

  test('an idle upload is cut, and its session lives on', async () => {
    const primary = await startTestPrimary({ primary: { timeouts: { idle: '300ms' } } })
    const client = primary.client(primary.admin)
    const opened = await client.request('POST', '/v2/library/idle/blobs/uploads/')
    const location = String(opened.headers.location)
    const body = stalledBody(bytesOf('idle', 1000))
    await assert.rejects(client.request('PATCH', location, { body }))
    await waitFor('the session to be free', async () => {
      const answer = await client.request('PATCH', location, { body: Buffer.alloc(0) })
      return answer.status === 202
    })
    const status = await client.request('GET', location)
    expectStatus(status, 204)
    assert.equal(status.headers.range, '0-999')
  })
})

/** A body that sends its bytes and then nothing, without an end. */
function stalledBody(bytes: Buffer): Readable {
  let sent = false
  return new Readable({
    read() {
      if (!sent) this.push(bytes)
      sent = true
    },
  })
}

async function postgresPid({ data }: PrimaryConfig): Promise<number> {
  const cluster = join(data, 'postgres', 'cluster')
  const text = await readFile(join(cluster, 'postmaster.pid'), 'utf8')
  return Number(text.split('\n')[0])
}
