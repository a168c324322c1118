import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { LookupAddress } from 'node:dns'
import type { AddressInfo } from 'node:net'
import { describe, test, type TestContext } from 'node:test'
import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import { inspect } from 'node:util'
import { request, type Dispatcher } from 'undici'
import {
  asHttpError,
  createBulkAgent,
  createHttpClient,
  HttpError,
  type HttpClientOptions,
} from '../../../shared/http/client.ts'
import { createGuard, type GuardOptions } from '../../../shared/http/guard.ts'
import { createProxyChoice, isExemption, parseProxy } from '../../../shared/http/proxy.ts'
import { makeCertificate } from '../../kit/certificates.ts'
import { startProxy, type TestProxy } from '../../kit/proxy.ts'

const ca = makeCertificate({ commonName: 'a CA', isCa: true, names: [] })
const pair = makeCertificate({ issuer: ca, names: ['registry.test'] })

describe('no_proxy', () => {
  const table: readonly (readonly [
    entry: string,
    exempt: readonly string[],
    not: readonly string[],
  ])[] = [
    ['*', ['a.example:443', '10.0.0.1:80', '[2001:db8::1]:80'], []],
    [
      'a.example',
      ['a.example:443', 'A.Example:80', 'b.a.example:443', 'c.b.a.example:443'],
      ['xa.example:443', 'example:443', 'a.example.org:443'],
    ],
    ['.a.example', ['b.a.example:443'], ['a.example:443', 'xa.example:443']],
    ['*.a.example', ['b.a.example:443'], ['a.example:443']],
    ['A.EXAMPLE', ['a.example:443'], []],
    ['bücher.example', ['xn--bcher-kva.example:443'], ['example:443']],
    ['intranet', ['intranet:80', 'x.intranet:80'], ['xintranet:80']],
    ['a.example:5000', ['a.example:5000', 'b.a.example:5000'], ['a.example:443']],
    ['10.1.2.3', ['10.1.2.3:443'], ['10.1.2.4:443', '10.1.2.30:443', 'a.10.1.2.3.example:443']],
    ['10.1.2.3:80', ['10.1.2.3:80'], ['10.1.2.3:443']],
    ['10.0.0.0/8', ['10.200.0.1:443'], ['11.0.0.1:443', 'a.example:443']],
    ['2001:db8::1', ['[2001:db8::1]:443', '[2001:db8:0:0:0:0:0:1]:443'], ['[2001:db8::2]:443']],
    ['[2001:db8::1]:80', ['[2001:db8::1]:80'], ['[2001:db8::1]:443']],
    ['2001:db8::/32', ['[2001:db8:1::9]:443'], ['[2001:db9::1]:443']],
  ]
  const choiceOf = (...noProxy: string[]) => {
    const proxy = new URL('http://proxy.example:3128')
    const choose = createProxyChoice({ https: proxy, http: proxy, noProxy })
    return (authority: string) => {
      const [, inBrackets, plain = '', port] = /^(?:\[(.+)\]|(.+)):(\d+)$/.exec(authority) ?? []
      return choose('https:', { host: inBrackets ?? plain, port: Number(port) })
    }
  }

  for (const [entry, exempt, not] of table) {
    test(`${entry} exempts what it names`, () => {
      const choose = choiceOf(entry)
      for (const authority of exempt) assert.equal(choose(authority), undefined, authority)
      for (const authority of not) assert.ok(choose(authority), authority)
      assert.ok(isExemption(entry))
    })
  }

  test('has entries that mean nothing, and exempt nobody', () => {
    for (const entry of ['', '10.0.0.0/33', 'https://a.example', 'a.example:http', '10.*', ':80']) {
      assert.ok(!isExemption(entry), entry)
      assert.ok(choiceOf(entry)('a.example:443'), entry)
    }
  })

  test('need not name this machine', () => {
    for (const host of ['localhost', 'LOCALHOST', '127.0.0.1', '127.9.9.9'])
      assert.equal(choiceOf()(`${host}:5000`), undefined, host)
    for (const host of ['[::1]', '[::ffff:127.0.0.1]'])
      assert.equal(choiceOf()(`${host}:5000`), undefined, host)
  })
})

test('there may be a proxy for https and another or none for plain http', () => {
  const https = new URL('http://proxy.example')
  const choose = createProxyChoice({ https, noProxy: [] })
  assert.equal(choose('https:', { host: 'a.example', port: 443 }), https)
  assert.equal(choose('http:', { host: 'a.example', port: 80 }), undefined)
})

test("a proxy's URL is one of http or https, and what is wrong with it is said without it", () => {
  assert.equal(parseProxy('proxy.example:3128').href, 'http://proxy.example:3128/')
  assert.equal(parseProxy('https://me:p%40ss@proxy.example').port, '')
  for (const written of [
    'socks5://me:PLANTED@proxy.example',
    'http://',
    'http://me:PLANTED@proxy.example/path',
    'http://proxy.example/?PLANTED',
    'http://me:PLANTED%@proxy.example',
    'PLANTED proxy',
  ])
    assert.throws(
      () => parseProxy(written),
      (error: Error) => error.message.startsWith('must') && !inspect(error).includes('PLANTED'),
      written,
    )
})

/** Serves `ok` at a free port of 127.0.0.1 until the test ends. */
async function serve(t: TestContext, server: Server): Promise<number> {
  server.on('request', (_request, response) => response.end('ok'))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

type Lookup = NonNullable<GuardOptions['lookup']>

/** A resolver that knows these names, and no other one. */
function resolver(names: Readonly<Record<string, readonly string[]>>): Lookup {
  const lookup = (
    host: string,
    _options: unknown,
    done: (error: Error | null, found: LookupAddress[]) => void,
  ) => {
    const found = (names[host] ?? []).map((address) => ({ address, family: 4 }))
    done(found.length > 0 ? null : new Error('no such name'), found)
  }
  return lookup as unknown as Lookup
}

interface Ways {
  readonly url: URL
  /** Asks by each way in turn: got's and undici's. @returns what they answered, or how they failed */
  ask(url?: URL): Promise<readonly (string | HttpError)[]>
}

interface Setting extends Partial<HttpClientOptions> {
  readonly url: string
  readonly proxy: TestProxy
  readonly noProxy?: readonly string[]
  readonly names?: Readonly<Record<string, readonly string[]>>
  readonly configured?: readonly URL[]
}

function createWays(
  t: TestContext,
  { url: written, proxy, noProxy = [], names = {}, configured, ...options }: Setting,
): Ways {
  const url = new URL(written)
  const connection = {
    guard: createGuard({ configured: configured ?? [url], lookup: resolver(names) }),
    chooseProxy: createProxyChoice({ https: proxy.url, http: proxy.url, noProxy }),
    ca: ca.cert,
    ...options,
  }
  const client = createHttpClient(connection)
  const dispatcher = createBulkAgent(connection)
  t.after(async () => {
    client.close()
    await dispatcher.destroy()
  })
  const byGot = async (at: URL) => (await client.request(at)).body.toString()
  const byUndici = async (at: URL) => {
    const answer = await request(at.origin, { dispatcher: dispatcher as Dispatcher })
    return answer.body.text()
  }
  return {
    url,
    async ask(at = url) {
      const answers: (string | HttpError)[] = []
      for (const ask of [byGot, byUndici])
        answers.push(await ask(at).catch((error: unknown) => asHttpError(at, error)))
      return answers
    },
  }
}

const codesOf = (answers: readonly (string | HttpError)[]) =>
  answers.map((answer) => (answer instanceof HttpError ? answer.code : answer))

test('an upstream of https is reached by CONNECT, and its certificate is verified by its name', async (t) => {
  const port = await serve(t, createTlsServer(pair))
  const proxy = await startProxy(t, {
    to: { 'registry.test:443': port, 'other.test:443': port },
    credentials: 'me:p@ss wörd',
  })
  const { ask, url } = createWays(t, { url: 'https://registry.test/', proxy })
  assert.deepEqual(await ask(), ['ok', 'ok'])
  assert.deepEqual(await ask(), ['ok', 'ok'])
  // One connection by each way is kept.
  assert.deepEqual(proxy.connects, ['registry.test:443', 'registry.test:443'])
  const other = createWays(t, { url: 'https://other.test/', proxy })
  assert.deepEqual(codesOf(await other.ask()), ['tls', 'tls'])
  const strange = createWays(t, { url: url.href, proxy, ca: makeCertificate().cert })
  assert.deepEqual(codesOf(await strange.ask()), ['tls', 'tls'])
})

test('so is one of plain http, and an address', async (t) => {
  const port = await serve(t, createServer())
  const proxy = await startProxy(t, { to: { 'registry.test:5000': port, '10.9.8.7:80': port } })
  for (const url of ['http://registry.test:5000/', 'http://10.9.8.7/'])
    assert.deepEqual(await createWays(t, { url, proxy }).ask(), ['ok', 'ok'])
  assert.deepEqual(proxy.connects, [
    ...['registry.test:5000', 'registry.test:5000'],
    ...['10.9.8.7:80', '10.9.8.7:80'],
  ])
})

test('a proxy may be one of https, whose certificate is verified too', async (t) => {
  const system = getCACertificates('default')
  t.after(() => setDefaultCACertificates(system))
  const port = await serve(t, createTlsServer(pair))
  const to = { 'registry.test:443': port }
  const proxy = await startProxy(t, { to, tls: makeCertificate({ issuer: ca }) })
  const url = 'https://registry.test/'
  const untrusted = await createWays(t, { url, proxy }).ask()
  assert.deepEqual(codesOf(untrusted), ['tls', 'tls'])
  assert.match(String(untrusted[0]), /the proxy 127\.0\.0\.1:\d+ fails/)
  assert.deepEqual(proxy.connects, [])
  setDefaultCACertificates([...system, ca.cert])
  assert.deepEqual(await createWays(t, { url, proxy }).ask(), ['ok', 'ok'])
})

test('who is exempt is dialled itself, and so is this machine', async (t) => {
  const port = await serve(t, createServer())
  const proxy = await startProxy(t, { to: {} })
  const names = { 'registry.test': ['127.0.0.1'] }
  const exempt = { proxy, names, noProxy: ['.example', 'test'] }
  assert.deepEqual(await createWays(t, { url: `http://registry.test:${port}/`, ...exempt }).ask(), [
    'ok',
    'ok',
  ])
  assert.deepEqual(await createWays(t, { url: `http://127.0.0.1:${port}/`, proxy }).ask(), [
    'ok',
    'ok',
  ])
  assert.deepEqual(proxy.connects, [])
})

test('what far sides name is guarded before the proxy is asked: addresses, and names as this machine knows them', async (t) => {
  const port = await serve(t, createServer())
  const proxy = await startProxy(t, { to: { 'cdn.test:80': port, 'nowhere.test:80': port } })
  const { ask } = createWays(t, {
    url: 'http://registry.test/',
    proxy,
    names: {
      'inner.test': ['10.0.0.1'],
      'half.test': ['8.8.8.8', '169.254.169.254'],
      'cdn.test': ['8.8.8.8'],
    },
  })
  for (const host of ['10.0.0.1', '169.254.169.254', '2852039166', 'inner.test', 'half.test']) {
    const answers = await ask(new URL(`http://${host}/`))
    assert.deepEqual(codesOf(answers), ['forbidden', 'forbidden'], host)
  }
  assert.deepEqual(proxy.connects, [])
  for (const host of ['cdn.test', 'nowhere.test'])
    assert.deepEqual(await ask(new URL(`http://${host}/`)), ['ok', 'ok'], host)
})

test('a proxy that refuses, or is not there, is named with what it said and without a secret', async (t) => {
  const proxy = await startProxy(t, { to: {}, credentials: 'me:PLANTED' })
  const { ask } = createWays(t, { url: 'https://registry.test/', proxy })
  const secret = new RegExp(`PLANTED|${Buffer.from('me:PLANTED').toString('base64')}`)
  for (const status of [407, 403, 502]) {
    proxy.refuse(status)
    for (const error of await ask()) {
      assert.ok(error instanceof HttpError)
      assert.equal(error.code, 'network')
      assert.equal(
        error.message,
        `registry.test: the proxy ${proxy.url.host} answers ${status} to CONNECT registry.test:443`,
      )
      assert.doesNotMatch(inspect(error, { depth: 12, showHidden: true }), secret)
    }
  }
  await proxy.close()
  for (const error of await ask()) {
    assert.ok(error instanceof HttpError)
    assert.equal(error.code, 'network')
    assert.match(error.message, /the proxy 127\.0\.0\.1:\d+ fails: connect ECONNREFUSED/)
    assert.doesNotMatch(inspect(error, { depth: 12, showHidden: true }), secret)
  }
})

test('a proxy that never answers, and an upstream that never shakes hands, are given up', async (t) => {
  const deaf = createServer()
  const port = await serve(t, deaf)
  const to = { 'registry.test:443': port }
  const url = 'https://registry.test/'
  const silent = await startProxy(t, { to, isSilent: true })
  for (const error of await createWays(t, { url, proxy: silent, connectTimeoutMs: 100 }).ask()) {
    assert.ok(error instanceof HttpError)
    assert.equal(error.code, 'timeout')
    assert.match(error.message, /the proxy .* did not connect to registry\.test:443 in 100 ms/)
  }
  // Speaks no TLS: takes what comes, and says nothing.
  deaf.removeAllListeners('connection').on('connection', (socket) => socket.resume())
  const proxy = await startProxy(t, { to })
  const deafWays = createWays(t, { url, proxy, connectTimeoutMs: 300 })
  assert.deepEqual(codesOf(await deafWays.ask()), ['timeout', 'timeout'])
  assert.equal(proxy.connects.length, 2)
})

test('a burst opens no more connections through a proxy than it may', async (t) => {
  const port = await serve(t, createTlsServer(pair))
  const proxy = await startProxy(t, { to: { 'registry.test:443': port } })
  const url = new URL('https://registry.test/')
  const client = createHttpClient({
    guard: createGuard({ configured: [url] }),
    chooseProxy: createProxyChoice({ https: proxy.url, noProxy: [] }),
    ca: ca.cert,
    maxSockets: 3,
  })
  t.after(() => client.close())
  const answers = await Promise.all(Array.from({ length: 30 }, () => client.request(url)))
  assert.ok(answers.every(({ status }) => status === 200))
  assert.equal(proxy.connects.length, 3)
})
