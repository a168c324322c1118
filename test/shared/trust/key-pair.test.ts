import assert from 'node:assert/strict'
import { generateKeyPairSync, X509Certificate } from 'node:crypto'
import { before, describe, test } from 'node:test'
import { checkKeyPair, KeyPairError, sanOf } from '../../../shared/trust/key-pair.ts'
import { createCa, issueServerCertificate, type PemPair } from '../../../shared/trust/pki.ts'

function check({ cert, key }: PemPair): void {
  checkKeyPair({ name: 'server.crt', pem: cert }, { name: 'server.key', pem: key })
}

function refusalOf(pair: PemPair): string {
  try {
    check(pair)
  } catch (error) {
    assert.ok(error instanceof KeyPairError)
    assert.doesNotMatch(error.message, /\n/)
    return error.message
  }
  return assert.fail('it was accepted')
}

describe('a certificate and a key', () => {
  let ca: PemPair
  let server: PemPair
  before(async () => {
    ca = await createCa('Test CA', new Date())
    const names = { dnsNames: ['localhost'], ipAddresses: [] }
    server = await issueServerCertificate(ca, { names, now: new Date() })
  })

  test('that belong together pass, with text around them and Windows line ends too', () => {
    check(server)
    const cert = `Certificate:\n    Data: …\n${server.cert}`.replaceAll('\n', '\r\n')
    check({ cert, key: `Key Attributes\n${server.key}` })
  })

  test('of two pairs are refused', () => {
    assert.match(
      refusalOf({ cert: server.cert, key: ca.key }),
      /^server\.key is not the key of server\.crt/,
    )
  })

  test('that are swapped are refused', () => {
    assert.match(
      refusalOf({ cert: server.key, key: server.cert }),
      /server\.crt holds no certificate: it holds a 'PRIVATE KEY'/,
    )
    assert.match(
      refusalOf({ cert: server.cert, key: server.cert }),
      /server\.key holds no private key: it holds a 'CERTIFICATE'/,
    )
  })

  test('are refused with the command that decrypts it when the key is encrypted', () => {
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
    const cipher = 'aes-256-cbc'
    for (const type of ['pkcs8', 'pkcs1'] as const) {
      const key = privateKey.export({ type, format: 'pem', cipher, passphrase: 'x' }).toString()
      assert.match(refusalOf({ cert: server.cert, key }), /server\.key is encrypted.*openssl pkey/)
    }
  })

  test('that are empty, not PEM or broken are refused', () => {
    assert.match(
      refusalOf({ cert: '', key: server.key }),
      /server\.crt holds no certificate.*empty/,
    )
    assert.match(refusalOf({ cert: '\x30\x82', key: server.key }), /not PEM/)
    assert.match(refusalOf({ cert: server.cert, key: '\x30\x82' }), /not PEM/)
    const cut = server.cert.replace(/[A-Za-z0-9+/]{64}\n/, '')
    assert.match(
      refusalOf({ cert: cut, key: server.key }),
      /server\.crt holds a broken certificate/,
    )
    const cutKey = server.key.replace(/[A-Za-z0-9+/]{64}\n/, '')
    assert.match(
      refusalOf({ cert: server.cert, key: cutKey }),
      /server\.key holds a broken private/,
    )
  })

  test('never show the key in an error', () => {
    const secret = server.key.split('\n')[3] ?? ''
    assert.equal(secret.length, 64)
    assert.ok(!refusalOf({ cert: server.key, key: server.key }).includes(secret))
    assert.ok(!refusalOf({ cert: ca.cert, key: server.key }).includes(secret))
  })
})

test('nothing in a name can pass for another name', async () => {
  const ca = await createCa('Test CA', new Date())
  // The builder does not check names; its callers do.
  const dnsNames = ['a.example, DNS:evil.example', 'b.example']
  const names = { dnsNames, ipAddresses: [] }
  const { cert } = await issueServerCertificate(ca, { names, now: new Date() })
  assert.deepEqual(sanOf(new X509Certificate(cert)), { dnsNames, ipAddresses: [] })
})
