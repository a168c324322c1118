import assert from 'node:assert/strict'
import { createPrivateKey, generateKeyPairSync, X509Certificate } from 'node:crypto'
import { before, describe, test } from 'node:test'
import { checkKeyPair, sanOf } from '../../../shared/trust/key-pair.ts'
import {
  createCa,
  createServerRequest,
  issueServerCertificate,
  type PemPair,
} from '../../../shared/trust/pki.ts'
import { fetchOver, serveTls } from './tls-server.ts'

const names = {
  dnsNames: ['localhost', '*.registry.example'],
  ipAddresses: ['127.0.0.1', '::1'],
}
const now = new Date('2026-03-01T12:00:00Z')
const dayMs = 86_400_000

describe('certificates', () => {
  let ca: PemPair
  let server: PemPair
  before(async () => {
    ca = await createCa('Test CA', new Date())
    server = await issueServerCertificate(ca, { names, now: new Date() })
  })

  test('a client that trusts the CA accepts the certificate, by name and by address', async (t) => {
    const port = await serveTls(t, server)
    assert.equal(await fetchOver({ host: 'localhost', port, ca: ca.cert }), 'served')
    assert.equal(await fetchOver({ host: '127.0.0.1', port, ca: ca.cert }), 'served')
    const sub = { host: '127.0.0.1', port, ca: ca.cert, servername: 'a.registry.example' }
    assert.equal(await fetchOver(sub), 'served')
  })

  test('a client without the CA refuses it', async (t) => {
    const port = await serveTls(t, server)
    await assert.rejects(fetchOver({ host: 'localhost', port }), {
      code: 'SELF_SIGNED_CERT_IN_CHAIN',
    })
  })

  test('a client that trusts another CA of the same name refuses it', async (t) => {
    const port = await serveTls(t, server)
    const other = await createCa('Test CA', new Date())
    await assert.rejects(fetchOver({ host: 'localhost', port, ca: other.cert }), {
      code: 'SELF_SIGNED_CERT_IN_CHAIN',
    })
  })

  test('a name that the certificate is not for is refused', async (t) => {
    const port = await serveTls(t, server)
    const wrong = { host: '127.0.0.1', port, ca: ca.cert, servername: 'other.example' }
    await assert.rejects(fetchOver(wrong), { code: 'ERR_TLS_CERT_ALTNAME_INVALID' })
  })

  test('the chain is verified by the CA, which is one, and the server is none', () => {
    const root = new X509Certificate(ca.cert)
    const leaf = new X509Certificate(server.cert)
    assert.ok(leaf.verify(root.publicKey))
    assert.ok(leaf.checkIssued(root))
    assert.equal(root.ca, true)
    assert.equal(leaf.ca, false)
    assert.deepEqual(leaf.keyUsage, ['1.3.6.1.5.5.7.3.1']) // serverAuth
    const [, second] = server.cert.split(/(?=-----BEGIN CERTIFICATE-----)/)
    assert.equal(second, ca.cert)
  })

  test('all names are in the SAN, whatever their number and length', async () => {
    const long = `${'a'.repeat(60)}.${'b'.repeat(60)}.example`
    const many = { dnsNames: [long, 'second.example'], ipAddresses: ['2001:db8::1'] }
    const { cert } = await issueServerCertificate(ca, { names: many, now: new Date() })
    assert.deepEqual(sanOf(new X509Certificate(cert)), many)
  })

  test('the key is PKCS#8 and belongs to the certificate', () => {
    assert.match(server.key, /^-----BEGIN PRIVATE KEY-----\n/)
    checkKeyPair({ name: 'c', pem: server.cert }, { name: 'k', pem: server.key })
  })

  test("serial numbers differ and are positive integers in DER's shortest form", async () => {
    const { cert } = await issueServerCertificate(ca, { names, now: new Date() })
    const serials = [cert, server.cert, ca.cert].map((pem) => new X509Certificate(pem).serialNumber)
    assert.equal(new Set(serials).size, 3)
    for (const serial of serials) assert.match(serial, /^[4-7][0-9A-F]{31}$/)
  })

  test('a CA lasts ten years, a server certificate 398 days, from an hour ago', async () => {
    const dated = await createCa('Test CA', now)
    const root = new X509Certificate(dated.cert)
    const { cert } = await issueServerCertificate(dated, { names, now })
    const leaf = new X509Certificate(cert)
    const hourAgo = now.getTime() - 3_600_000
    assert.equal(Date.parse(root.validFrom), hourAgo)
    assert.equal(Date.parse(root.validTo), hourAgo + 3650 * dayMs)
    assert.equal(Date.parse(leaf.validFrom), hourAgo)
    assert.equal(Date.parse(leaf.validTo), hourAgo + 398 * dayMs)
  })

  test('a certificate never outlives its CA', async () => {
    const late = new Date(Date.now() + 3600 * dayMs)
    const { cert } = await issueServerCertificate(ca, { names, now: late })
    assert.equal(new X509Certificate(cert).validTo, new X509Certificate(ca.cert).validTo)
  })

  test('a CA whose key is not RSA is refused with the way out', async () => {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    const key = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString()
    await assert.rejects(
      issueServerCertificate({ cert: ca.cert, key }, { names, now }),
      /RSA.*certs csr/,
    )
  })

  test('a request comes with a key of its own', async () => {
    const { request, key } = await createServerRequest(names)
    assert.match(request, /^-----BEGIN CERTIFICATE REQUEST-----\n/)
    assert.equal(createPrivateKey(key).asymmetricKeyDetails?.modulusLength, 2048)
  })
})
