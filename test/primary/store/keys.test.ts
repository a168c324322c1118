import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { test, type TestContext } from 'node:test'
import { createFsBlobs } from '../../../primary/store/fs-blobs.ts'
import { openKeyFile } from '../../../primary/store/key-file.ts'
import { createKeys } from '../../../primary/store/keys.ts'
import { agreeOnKeyFile, agreeOnStore } from '../../../primary/store/settings.ts'
import { createTokenVerifier, signToken } from '../../../shared/auth/token.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import { createSecrets } from '../../../shared/trust/secrets.ts'
import { createTestDatabase } from '../../kit/postgres.ts'

async function folder(t: TestContext): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'outport-keys-'))
  t.after(() => rm(root, { recursive: true, force: true }))
  return root
}

async function openStore(t: TestContext, root: string) {
  const store = await createFsBlobs({ root, openFiles: 4 })
  t.after(() => store.close())
  return store
}

test('primaries that start together agree on one token key, whose public half verifies', async (t) => {
  const { records } = await createTestDatabase(t)
  const secrets = createSecrets(randomBytes(32))
  const rings = await Promise.all(
    [1, 2, 3].map(() => createKeys(records, secrets).ring('jwt', new Date())),
  )
  const [first] = rings
  assert.ok(first)
  assert.deepEqual(new Set(rings.map(({ signing }) => signing.kid)).size, 1)
  const claims = { issuer: 'i', audience: 'a', subject: '', name: '', access: [] }
  const { token } = await signToken(claims, {
    key: first.signing,
    lifetimeSeconds: 60,
    now: new Date(),
  })
  const verifier = createTokenVerifier({
    keys: () => first.public,
    issuer: 'i',
    audience: 'a',
    cacheEntries: 1,
  })
  assert.ok(await verifier.verify(token))
  assert.ok(first.public.keys.every((key) => !('d' in key)))
})

test('a private key lies sealed, and opens only under its key file', async (t) => {
  const { records } = await createTestDatabase(t)
  await createKeys(records, createSecrets(randomBytes(32))).ring('jwt', new Date())
  await assert.rejects(createKeys(records, createSecrets(randomBytes(32))).ring('jwt', new Date()))
})

test('the key file is made once, for its owner alone, and another one is refused', async (t) => {
  const { records } = await createTestDatabase(t)
  const path = join(await folder(t), 'outport.key')
  const secrets = await openKeyFile(path)
  assert.equal((await stat(path)).mode & 0o777, 0o600)
  assert.equal((await openKeyFile(path)).fingerprint, secrets.fingerprint)
  await agreeOnKeyFile(records, secrets, path)
  await agreeOnKeyFile(records, secrets, path)
  await rm(path)
  await assert.rejects(agreeOnKeyFile(records, await openKeyFile(path), path), /not the key file/)
  await writeFile(path, 'nonsense')
  await assert.rejects(openKeyFile(path), /holds no key/)
  assert.ok((await readFile(path, 'utf8')).length > 0)
})

test('records and blobs find each other again, and two disks on one database do not', async (t) => {
  const { records } = await createTestDatabase(t)
  const [own, foreign] = [await openStore(t, await folder(t)), await openStore(t, await folder(t))]
  const id = await agreeOnStore(records, own)
  assert.equal(await agreeOnStore(records, own), id)
  const key = 'c'.repeat(32)
  await own.create(key)
  await own.append(key, 0, Readable.from([Buffer.from('x')]))
  await own.commit(key, digestOf(Buffer.from('x')))
  await records
    .insertInto('blobs')
    .values({ key, digest: digestOf(Buffer.from('x')), size: 1, state: 'live' })
    .execute()
  await assert.rejects(agreeOnStore(records, foreign), /not in this folder/)

  const other = await createTestDatabase(t)
  await agreeOnStore(other.records, foreign)
  await assert.rejects(agreeOnStore(other.records, own), /another database/)
  const fresh = await createTestDatabase(t)
  await assert.rejects(agreeOnStore(fresh.records, own), /not this one/)
})
