import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parse } from 'yaml'
import { describeConfig } from '../../../shared/config/describe.ts'
import { loadConfig } from '../../../shared/config/load.ts'
import { edgeSection } from '../../../edge/config.ts'
import { primarySection } from '../../../primary/config.ts'

const sections = [primarySection, edgeSection] as const

test('the description shows units and what was derived, and says of secrets only that they are set', () => {
  const config = loadConfig({
    sections,
    env: {
      OUTPORT_ADMIN_PASSWORD: 'PLANTED-1',
      OUTPORT_PRIMARY__DATABASE__URL: 'postgres://me:PLANTED-2@db/outport',
      HTTPS_PROXY: 'http://me:PLANTED-4@proxy.example:3128',
      NO_PROXY: 'example.com',
    },
    flags: {
      edge: {
        ready_made: ['docker.io'],
        upstreams: [
          {
            id: 'quay',
            url: 'https://quay.io',
            credentials: { username: 'robot', password: 'PLANTED-3' },
          },
        ],
      },
    },
    workingFolder: '/srv',
  })
  const text = describeConfig(config, sections)
  assert.doesNotMatch(text, /PLANTED/)
  const shown = parse(text) as {
    readonly data: string
    readonly primary: Record<string, unknown>
    readonly edge: {
      readonly outbound: unknown
      readonly upstreams: readonly Record<string, unknown>[]
    }
  }
  assert.equal(shown.data, '/srv/data')
  assert.equal(shown.primary['key_file'], '/srv/data.key')
  assert.equal(shown.primary['admin_password'], '(set)')
  assert.deepEqual(shown.primary['events'], { retain: '24h' })
  assert.deepEqual(
    shown.edge.upstreams.map(({ id }) => id),
    ['primary', 'docker.io', 'quay'],
  )
  assert.deepEqual(shown.edge.outbound, {
    allow: [],
    proxy: '(set)',
    no_proxy: ['example.com'],
  })
  assert.deepEqual(shown.edge.upstreams[2]?.['credentials'], {
    username: 'robot',
    password: '(set)',
  })
})
