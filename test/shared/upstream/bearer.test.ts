import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { HttpClient } from '../../../shared/http/client.ts'
import { formatBasic } from '../../../shared/auth/basic.ts'
import { createAuthenticator } from '../../../shared/upstream/bearer.ts'
import type { RegistryEntry, RegistryKind } from '../../../shared/upstream/registries.ts'

const credential = { username: 'edge$one', password: 'secret' }

function authenticatorOf(kind: RegistryKind) {
  const entry = { id: 'it', kind } as RegistryEntry
  const http = {
    request: () => Promise.reject(new Error('nobody is to be asked')),
  } as unknown as HttpClient
  return createAuthenticator({ entry, http, now: () => 0 })
}

test('its primary is told at once who asks, whatever it would show to everybody', () => {
  const access = { repository: 'library/app', credential }
  assert.equal(authenticatorOf('primary').known(access), formatBasic(credential))
  assert.equal(authenticatorOf('primary').known({ ...access, credential: undefined }), undefined)
})

test('another registry gets no credential before it asks for one', () => {
  const access = { repository: 'library/app', credential }
  assert.equal(authenticatorOf('registry').known(access), undefined)
})
