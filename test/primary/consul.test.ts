import assert from 'node:assert/strict'
import { test } from 'node:test'
import { waitFor } from '../kit/clock.ts'
import { startFakeConsul } from '../kit/consul.ts'
import { startTestPrimary } from '../kit/primary.ts'

test('a primary is in Consul while it runs', async (t) => {
  const consul = await startFakeConsul(t)
  const primary = await startTestPrimary({
    primary: { consul: { address: consul.url.origin, url: 'https://registry.example.com' } },
  })
  const service = await waitFor('the registration', () => [...consul.services.values()][0])
  await waitFor('its beat', () => service.status === 'passing')
  const { Name: name, Meta: meta, Port: port } = service.registration
  assert.deepEqual([name, port], ['outport-primary', 443])
  assert.match(
    JSON.stringify(meta),
    /^{"id":"[0-9a-f-]{36}","url":"https:\/\/registry.example.com"/,
  )
  await primary.stop()
  assert.equal(consul.services.size, 0)
})
