import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { UsageError } from '../../deploy/command-line.ts'
import { createPrimaryClient, parsePrimaryUrl, readPrimaryCa } from '../../deploy/primary-client.ts'
import { onOneLine } from '../../deploy/one-line.ts'
import { StartError } from '../../deploy/start-errors.ts'
import { createCa, issueServerCertificate } from '../../shared/trust/pki.ts'
import { tempFolder } from '../kit/temp.ts'
import { serveTls } from '../shared/trust/tls-server.ts'

test('secrets go over https, to this machine, or where somebody allowed it', () => {
  const parse = (text: string, insecureHttp = false) =>
    parsePrimaryUrl(text, { what: 'URL', insecureHttp }).origin
  assert.equal(parse('https://a.example/'), 'https://a.example')
  for (const local of ['http://127.0.0.1:8080', 'http://localhost:1', 'http://[::1]:8080'])
    assert.equal(parse(local), local)
  assert.equal(parse('http://a.example', true), 'http://a.example')
  for (const [text, message] of [
    ['http://a.example', /^http:\/\/a\.example is plain http.*--insecure-http/],
    ['http://10.0.0.1:8080', /plain http/],
    ['a.example', /^URL must be an absolute/],
    ['ftp://a.example', /^URL must be/],
    ['https://a.example/x', /^URL must not have a path.*'https:\/\/a\.example' is meant/],
    ['https://me:planted@a.example', /^URL must not hold a user name/],
  ] as const) {
    assert.throws(
      () => parse(text),
      (error) => {
        assert.ok(error instanceof UsageError)
        assert.match(error.message, message)
        assert.doesNotMatch(error.message, /planted/)
        return true
      },
    )
  }
})

test('a primary with a private CA is reached by naming that, and only then', async (t) => {
  const ca = await createCa('Test CA', new Date())
  const names = { dnsNames: ['localhost'], ipAddresses: [] }
  const port = await serveTls(t, await issueServerCertificate(ca, { names, now: new Date() }))
  const url = new URL(`https://localhost:${port}`)
  const ask = async (at: URL, pem?: string) => {
    const client = createPrimaryClient({ url: at, ca: pem })
    try {
      return (await client.ask('/')).body.toString()
    } finally {
      client.close()
    }
  }
  assert.equal(await ask(url, ca.cert), 'served')
  await assert.rejects(ask(url), (error) => {
    assert.ok(error instanceof StartError)
    assert.match(
      error.message,
      /^the certificate of localhost:\d+ is not trusted here: .*--ca FILE/,
    )
    return true
  })
  await assert.rejects(ask(new URL(`https://127.0.0.1:${port}`), ca.cert), /not trusted here/)
})

test('a file that is no CA is refused', async (t) => {
  const file = join(await tempFolder(t), 'ca.pem')
  await assert.rejects(readPrimaryCa(file), /does not exist: .*--ca/)
  await writeFile(file, 'no PEM')
  await assert.rejects(readPrimaryCa(file), /holds no certificate/)
  assert.equal(await readPrimaryCa(undefined), undefined)
})

test('what a far side says cannot write over a terminal', () => {
  assert.equal(onOneLine(' a\r\n\u001b[31mb\u0000\u202e c '), 'a [31mb c')
  assert.equal(onOneLine('x'.repeat(1000)).length, 301)
})
