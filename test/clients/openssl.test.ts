import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { chmod, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { readTlsFiles } from '../../shared/http/tls-files.ts'
import { sanOf } from '../../shared/trust/key-pair.ts'
import { createCa, createServerRequest, issueServerCertificate } from '../../shared/trust/pki.ts'
import { tempFolder } from '../kit/temp.ts'
import { fetchOver, serveTls } from '../shared/trust/tls-server.ts'
import { run } from './process.ts'
import { requireTool } from './tools.ts'

/** Runs openssl in a folder of its own; undefined when it is missing and the test is skipped. */
async function openssl(t: TestContext) {
  const program = requireTool(t, 'openssl')
  if (program === undefined) return undefined
  const folder = await tempFolder(t)
  return {
    read: (name: string) => readFile(join(folder, name), 'utf8'),
    write: (name: string, text: string) => writeFile(join(folder, name), text),
    path: (name: string) => join(folder, name),
    async run(line: string) {
      const result = await run(program, line.split(' '), { cwd: folder })
      assert.equal(result.code, 0, `openssl ${line}\n${result.stderr}`)
      return result.stdout
    },
  }
}

const v3 = `authorityKeyIdentifier=keyid,issuer
basicConstraints=CA:FALSE
keyUsage=digitalSignature,nonRepudiation,keyEncipherment,dataEncipherment
extendedKeyUsage=serverAuth
subjectAltName=@alt_names
[alt_names]
DNS.1=registry.example
DNS.2=localhost
IP.1=127.0.0.1
`

const keys = {
  'PKCS#8 RSA': 'genrsa -out server.key 2048',
  'PKCS#1 RSA': 'genrsa -traditional -out server.key 2048',
  'EC with its parameters in front': 'ecparam -name prime256v1 -genkey -out server.key',
  'PKCS#8 EC': 'genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out server.key',
} as const

for (const [kind, command] of Object.entries(keys)) {
  test(`the files of the usual recipe serve TLS, with a ${kind} key`, async (t) => {
    const ssl = await openssl(t)
    if (ssl === undefined) return
    await ssl.run('genrsa -out ca.key 2048')
    await ssl.run('req -x509 -new -nodes -sha512 -days 3650 -subj /CN=Own -key ca.key -out ca.crt')
    await ssl.run(command)
    await ssl.run('req -sha512 -new -subj /CN=registry.example -key server.key -out server.csr')
    await ssl.write('v3.ext', v3)
    await ssl.run(
      'x509 -req -sha512 -days 3650 -extfile v3.ext -CA ca.crt -CAkey ca.key -CAcreateserial -in server.csr -out server.crt',
    )
    // As some recipes have it: with openssl's text in front.
    await ssl.run('x509 -in server.crt -text -out server.text.crt')
    for (const file of ['server.crt', 'server.text.crt']) {
      const pair = await readTlsFiles({ cert: ssl.path(file), key: ssl.path('server.key') })
      assert.deepEqual(sanOf(new X509Certificate(pair.cert)), {
        dnsNames: ['registry.example', 'localhost'],
        ipAddresses: ['127.0.0.1'],
      })
      const port = await serveTls(t, pair)
      const ca = await ssl.read('ca.crt')
      assert.equal(await fetchOver({ host: '127.0.0.1', port, ca }), 'served')
      const named = { host: '127.0.0.1', port, ca, servername: 'registry.example' }
      assert.equal(await fetchOver(named), 'served')
    }
  })
}

test('an encrypted key of openssl is refused, old form and new', async (t) => {
  const ssl = await openssl(t)
  if (ssl === undefined) return
  const ca = await createCa('Test CA', new Date())
  await ssl.write('ca.crt', ca.cert)
  for (const form of ['', '-traditional ']) {
    await ssl.run(`genrsa ${form}-aes256 -passout pass:x -out server.key 2048`)
    const files = { cert: ssl.path('ca.crt'), key: ssl.path('server.key') }
    await assert.rejects(readTlsFiles(files), /server\.key is encrypted/)
  }
})

test('openssl verifies what is issued here, and signs what is requested', async (t) => {
  const ssl = await openssl(t)
  if (ssl === undefined) return
  const names = { dnsNames: ['registry.example'], ipAddresses: ['127.0.0.1', '2001:db8::1'] }
  const ca = await createCa('Test CA', new Date())
  const server = await issueServerCertificate(ca, { names, now: new Date() })
  await ssl.write('ca.crt', ca.cert)
  await ssl.write('ca.key', ca.key)
  await chmod(ssl.path('ca.key'), 0o600)
  await ssl.write('server.crt', server.cert)
  const strict = 'verify -x509_strict -purpose sslserver -CAfile ca.crt'
  await ssl.run(`${strict} -verify_hostname registry.example server.crt`)
  await ssl.run(`${strict} -verify_ip 2001:db8::1 server.crt`)

  const { request, key } = await createServerRequest(names)
  await ssl.write('request.csr', request)
  await ssl.run('req -verify -noout -in request.csr')
  await ssl.run(
    'x509 -req -copy_extensions copyall -CA ca.crt -CAkey ca.key -CAcreateserial -in request.csr -out signed.crt',
  )
  await ssl.write('signed.key', key)
  const { cert } = await readTlsFiles({ cert: ssl.path('signed.crt'), key: ssl.path('signed.key') })
  assert.deepEqual(sanOf(new X509Certificate(cert)), names)
})
