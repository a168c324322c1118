import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { createSecrets } from '../../../shared/trust/secrets.ts'

test('a secret opens under its own key and label, and under no other', () => {
  const key = randomBytes(32)
  const secrets = createSecrets(key)
  const sealed = secrets.seal(Buffer.from('private'), 'a')
  assert.equal(createSecrets(key).open(sealed, 'a').toString(), 'private')
  assert.throws(() => secrets.open(sealed, 'b'))
  assert.throws(() => createSecrets(randomBytes(32)).open(sealed, 'a'))
})

test('no byte of a sealed secret can be changed, and two are never equal', () => {
  const secrets = createSecrets(randomBytes(32))
  const sealed = secrets.seal(Buffer.from('private'), 'a')
  assert.notDeepEqual(secrets.seal(Buffer.from('private'), 'a'), sealed)
  assert.ok(!sealed.includes('private'))
  for (let at = 0; at < sealed.length; at++) {
    const changed = Buffer.from(sealed)
    changed[at] = (changed[at] ?? 0) ^ 1
    assert.throws(() => secrets.open(changed, 'a'), String(at))
  }
  assert.throws(() => secrets.open(Buffer.alloc(0), 'a'))
})

test('the fingerprint names the key and does not contain it', () => {
  const key = randomBytes(32)
  assert.equal(createSecrets(key).fingerprint, createSecrets(key).fingerprint)
  assert.notEqual(createSecrets(key).fingerprint, createSecrets(randomBytes(32)).fingerprint)
  assert.ok(!key.toString('hex').includes(createSecrets(key).fingerprint))
  assert.throws(() => createSecrets(Buffer.alloc(16)))
})
