import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { Supervisor } from '../../deploy/supervisor.ts'
import { loadUpConfig } from '../../deploy/up-config.ts'
import { createLogger } from '../../shared/observability/log.ts'
import { waitFor } from '../kit/clock.ts'
import { tempFolder } from '../kit/temp.ts'

test('a restart whose configuration cannot be made is tried again', async (t) => {
  const data = await tempFolder(t)
  const config = loadUpConfig({ data, primaryPort: 0 })
  let asked = 0
  const supervisor = new Supervisor({
    name: 'primary',
    command: [process.execPath, join(import.meta.dirname, 'stand-in.ts'), 'primary'],
    env: process.env,
    stdout: 2,
    configure: () => {
      asked++
      if (asked === 2) throw new Error('not now')
      return config
    },
    restartPauseMs: 10,
    log: createLogger({ level: 'error', write: () => undefined }),
    onGivenUp: (message) => assert.fail(message),
  })
  t.after(() => supervisor.stop(0))
  const { urls } = await supervisor.start()
  process.kill(Number(await (await fetch(urls['listener0'] ?? '')).text()), 'SIGKILL')
  await waitFor('the third start', () => asked === 3)
  await waitFor('its end', async () => supervisor.stop(0))
  assert.ok(supervisor.leftNothing)
})
