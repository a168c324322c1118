import assert from 'node:assert/strict'
import { mkdir, rename, writeFile } from 'node:fs/promises'
import { once } from 'node:events'
import { connect as connectTcp, createServer, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { describe, test, type TestContext } from 'node:test'
import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls'
import {
  readClientCertificate,
  readTlsFiles,
  TlsFilesError,
} from '../../../shared/http/tls-files.ts'
import { setTimeout as delay } from 'node:timers/promises'
import { makeCertificate, type TestCertificate } from '../../kit/certificates.ts'
import { waitFor } from '../../kit/clock.ts'
import { connectRaw, startHttpServer } from '../../kit/http-server.ts'
import { tempFolder } from '../../kit/temp.ts'

async function writePair(folder: string, { cert, key }: TestCertificate) {
  const files = { cert: join(folder, 'tls.crt'), key: join(folder, 'tls.key') }
  await writeFile(files.cert, cert)
  await writeFile(files.key, key)
  return files
}

/** Puts a file in the place of another at once, as what renews certificates does: a look finds no half of one. */
async function replaceFile(path: string, content: string): Promise<void> {
  await writeFile(`${path}.next`, content)
  await rename(`${path}.next`, path)
}

const good = makeCertificate()

describe('the files of a certificate', () => {
  test('that belong together are read, a chain and old key forms included', async (t) => {
    const folder = await tempFolder(t)
    const ca = makeCertificate({ isCa: true, names: [], commonName: 'ca' })
    const leaf = makeCertificate({ issuer: ca })
    const files = await writePair(folder, { cert: `${leaf.cert}\n${ca.cert}`, key: leaf.key })
    const pair = await readTlsFiles(files)
    assert.equal(pair.key, leaf.key)
    assert.ok(pair.validTo > new Date())
  })

  test('that clients would refuse are refused here, in one line that says what to do', async (t) => {
    const folder = await tempFolder(t)
    const other = makeCertificate()
    const ca = makeCertificate({ isCa: true, names: [], commonName: 'ca' })
    const past = new Date(Date.now() - 1000)
    const cases: readonly (readonly [string, TestCertificate, RegExp])[] = [
      [
        'another key',
        { ...good, key: other.key },
        /tls\.key is not the key of the certificate in .*tls\.crt$/,
      ],
      [
        'no SAN',
        makeCertificate({ names: [] }),
        /tls\.crt: the certificate has no SAN .* issue it with DNS: or IP: entries$/,
      ],
      [
        'expired',
        makeCertificate({ notAfter: past }),
        /tls\.crt: the certificate expired on \d{4}-/,
      ],
      ['no certificate', { ...good, cert: 'hello' }, /tls\.crt holds no certificate in PEM form/],
      [
        'a broken certificate',
        { ...good, cert: '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n' },
        /tls\.crt holds a broken certificate$/,
      ],
      ['no key', { ...good, key: 'hello' }, /tls\.key holds no private key in PEM form$/],
      [
        'an encrypted key',
        {
          ...good,
          key: '-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n',
        },
        /tls\.key is encrypted: give the key without a passphrase/,
      ],
      [
        'the CA first',
        { cert: `${ca.cert}${good.cert}`, key: good.key },
        /tls\.crt: the server's certificate must come first/,
      ],
    ]
    for (const [what, pair, expected] of cases) {
      await assert.rejects(readTlsFiles(await writePair(folder, pair)), (error) => {
        assert.ok(error instanceof TlsFilesError, what)
        assert.match(error.message, expected, what)
        assert.doesNotMatch(error.message, /\n|PRIVATE KEY-----\nM/, what)
        return true
      })
    }
  })

  test('of a client need name no host, and are refused in one line all the same', async (t) => {
    const folder = await tempFolder(t)
    const pair = makeCertificate({ names: [] })
    const files = await writePair(folder, pair)
    assert.deepEqual(await readClientCertificate(files), pair)
    await writePair(folder, { ...pair, key: good.key })
    await assert.rejects(readClientCertificate(files), {
      name: 'TlsFilesError',
      file: 'key',
      message: `${files.key} is not the key of the certificate in ${files.cert}`,
    })
    await writePair(folder, makeCertificate({ names: [], notAfter: new Date(Date.now() - 1000) }))
    await assert.rejects(readClientCertificate(files), /tls\.crt: the certificate expired on/)
  })

  test('that are not there are named', async (t) => {
    const folder = await tempFolder(t)
    await assert.rejects(readTlsFiles({ cert: join(folder, 'a'), key: join(folder, 'b') }), {
      name: 'TlsFilesError',
      message: `cannot read ${join(folder, 'a')}: there is no such file`,
    })
  })
})

async function startTlsServer(test: TestContext, pair: TestCertificate) {
  const folder = join(await tempFolder(test), 'tls')
  await mkdir(folder)
  const files = await writePair(folder, pair)
  const server = await startHttpServer(test, {
    listener: { address: '127.0.0.1', port: 0, tls: files },
    tlsWatchMs: 10,
    routes: (app) => {
      app.get('/', async () => 'hello over tls')
    },
  })
  return { ...server, files, folder }
}

interface Peer {
  readonly socket: TLSSocket
  readonly fingerprint: string
  readonly ask: () => Promise<string>
}

async function connectTls(
  test: TestContext,
  port: number,
  options: ConnectionOptions = {},
): Promise<Peer> {
  const socket = connect({
    ...options,
    host: '127.0.0.1',
    port,
    servername: 'localhost',
    ALPNProtocols: ['h2', 'http/1.1'],
    rejectUnauthorized: false,
  })
  test.after(() => socket.destroy())
  await once(socket, 'secureConnect')
  return {
    socket,
    fingerprint: socket.getPeerX509Certificate()?.fingerprint256 ?? '',
    ask: async () => {
      socket.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
      let answer = ''
      while (!answer.endsWith('hello over tls')) {
        const [chunk] = (await once(socket, 'data')) as [Buffer]
        answer += chunk.toString()
      }
      return answer
    },
  }
}

describe('an HTTPS server', () => {
  test('speaks HTTP/1.1 although its client would rather speak h2', async (t) => {
    const { port, url } = await startTlsServer(t, good)
    assert.equal(url.protocol, 'https:')
    const { socket, ask } = await connectTls(t, port)
    assert.equal(socket.alpnProtocol, 'http/1.1')
    assert.match(await ask(), /^HTTP\/1\.1 200 OK/)
  })

  test('encrypts bulk with AES-128 unless the client knows only others, also after a new certificate', async (t) => {
    const server = await startTlsServer(t, good)
    const cipherOf = async (options?: ConnectionOptions) => {
      const { socket, ask } = await connectTls(t, server.port, options)
      assert.match(await ask(), /200 OK/)
      return `${socket.getProtocol()} ${socket.getCipher().standardName}`
    }
    const expectAll = async () => {
      assert.equal(await cipherOf(), 'TLSv1.3 TLS_AES_128_GCM_SHA256')
      assert.match(
        await cipherOf({ maxVersion: 'TLSv1.2' }),
        /^TLSv1\.2 TLS_ECDHE_\w+_WITH_AES_128_GCM/,
      )
      for (const only of ['TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256'])
        assert.equal(await cipherOf({ ciphers: only, minVersion: 'TLSv1.3' }), `TLSv1.3 ${only}`)
    }
    await expectAll()
    await writePair(server.folder, makeCertificate())
    await waitFor('the new certificate', () =>
      server.lines.some(({ msg }) => msg === 'a new certificate is in use'),
    )
    await expectAll()
  })

  test('takes a new certificate for new connections while old ones live on', async (t) => {
    const server = await startTlsServer(t, good)
    const old = await connectTls(t, server.port)
    await old.ask()
    const next = makeCertificate()
    await writePair(server.folder, next)
    await waitFor('the new certificate', () =>
      server.lines.some(({ msg }) => msg === 'a new certificate is in use'),
    )
    const fresh = await connectTls(t, server.port)
    assert.notEqual(fresh.fingerprint, old.fingerprint)
    assert.match(await fresh.ask(), /200 OK/)
    assert.match(await old.ask(), /200 OK/)
  })

  test('keeps the old certificate when the new one is bad, says so once, and takes the next good one', async (t) => {
    const server = await startTlsServer(t, good)
    const before = await connectTls(t, server.port)
    const warnings = () => server.lines.filter(({ level }) => level === 'warn')
    const next = makeCertificate()
    await replaceFile(server.files.cert, next.cert)
    await waitFor('the warning', () => warnings().length === 1)
    assert.match(String(warnings()[0]?.reason), /is not the key of the certificate/)
    // The same trouble again, after another change, is no news.
    await replaceFile(server.files.cert, `${next.cert}\n`)
    await delay(200)
    assert.equal((await connectTls(t, server.port)).fingerprint, before.fingerprint)
    await replaceFile(server.files.key, next.key)
    await waitFor('the new certificate', async () => {
      const { fingerprint } = await connectTls(t, server.port)
      return fingerprint !== before.fingerprint
    })
    assert.equal(warnings().length, 1)
  })

  test('drains with its connections, handshakes that never came to an end included', async (t) => {
    const server = await startTlsServer(t, good)
    const idle = await connectTls(t, server.port)
    await idle.ask()
    const half = await connectRaw(t, server.port)
    half.send('\x16\x03\x01')
    const started = performance.now()
    await server.server.drain(300)
    assert.ok(performance.now() - started < 5000)
    await half.closed()
  })

  test('does not start with a certificate that its clients would refuse', async (t) => {
    await assert.rejects(startTlsServer(t, makeCertificate({ names: [] })), TlsFilesError)
  })

  test('survives what is not TLS', async (t) => {
    const server = await startTlsServer(t, good)
    const plain = await connectRaw(t, server.port)
    plain.send('GET / HTTP/1.1\r\nHost: h\r\n\r\n')
    await plain.closed()
    assert.match(await (await connectTls(t, server.port)).ask(), /200 OK/)
  })
})

describe('a server for those alone who show a certificate', () => {
  const ca = makeCertificate({ isCa: true, names: [], commonName: 'ca' })
  const client = makeCertificate({ issuer: ca })
  const start = async (t: TestContext) => {
    const served = await startHttpServer(t, { mutual: true, timeouts: { tls_handshake: 300 } })
    served.server.setMutual({ ...makeCertificate({ issuer: ca }), ca: [ca.cert] })
    return served
  }

  test('answers one whose first bytes come one by one', async (t) => {
    const { port } = await start(t)
    const relay = createServer((near) => {
      const far = connectTcp({ host: '127.0.0.1', port })
      far.setNoDelay(true)
      // The first byte of each chunk alone.
      near.on('data', (chunk: Buffer) => {
        far.write(chunk.subarray(0, 1), () => far.write(chunk.subarray(1)))
      })
      far.pipe(near)
      for (const socket of [near, far])
        socket
          .on('error', () => undefined)
          .on('close', () => [near, far].map((each) => each.destroy()))
    })
    relay.listen(0, '127.0.0.1')
    await once(relay, 'listening')
    t.after(() => relay.close())
    const connection = await connectRaw(t, (relay.address() as AddressInfo).port, {
      ...client,
      ca: ca.cert,
    })
    connection.send('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n')
    assert.match(await connection.until(/ok/), /^HTTP\/1\.1 200 /)
  })

  test('says how long it keeps a connection, so that whoever comes back need not shake hands again', async (t) => {
    const { server, port } = await startHttpServer(t, {
      mutual: true,
      timeouts: { keep_alive: 90_000 },
    })
    server.setMutual({ ...makeCertificate({ issuer: ca }), ca: [ca.cert] })
    const connection = await connectRaw(t, port, { ...client, ca: ca.cert })
    connection.send('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n')
    assert.match(await connection.until(/ok/), /\r\nkeep-alive: timeout=90\r\n/i)
  })

  test('closes a connection that says nothing, or only that it is over', async (t) => {
    const { port } = await start(t)
    const silent = await connectRaw(t, port)
    const over = await connectRaw(t, port)
    over.socket.end()
    await over.closed()
    await silent.closed()
    assert.equal(silent.received(), '')
  })
})
