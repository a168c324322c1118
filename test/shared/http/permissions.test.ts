import assert from 'node:assert/strict'
import { test } from 'node:test'
import Fastify from 'fastify'
import { requirePermissions } from '../../../shared/http/permissions.ts'

test('a route that does not say who may call it cannot be added, in a scope neither', async () => {
  const app = Fastify()
  requirePermissions(app)
  const nobody = { config: { permission: { of: 'nobody' } } }
  app.get('/open', nobody, () => 'open')
  assert.throws(() => app.get('/forgotten', () => ''), /GET \/forgotten does not declare/)
  assert.throws(() => app.post('/forgotten', { config: {} }, () => ''), /does not declare/)
  void app.register((scope, _options, done) => {
    assert.throws(() => scope.get('/inner', () => ''), /does not declare/)
    done()
  })
  await app.ready()
  assert.equal((await app.inject('/open')).body, 'open')
  await app.close()
})
