import { defineCommand, UsageError } from '../command-line.ts'
import { adminOptions } from './edges/options.ts'

/** How often is looked how far it is. Milliseconds. */
const pollMs = 1000

/** `outport preheat` */
export const preheat = defineCommand({
  name: 'preheat',
  summary: 'have edges fetch an image before anybody pulls it',
  words: ['IMAGE'],
  options: {
    ...adminOptions,
    edge: { type: 'string', multiple: true, value: 'NAME', help: 'an edge, by its name or id' },
    site: { type: 'string', multiple: true, value: 'SITE', help: 'the edges of a site: a pattern' },
    group: { type: 'string', value: 'ID', help: 'the edges of a group, as rules have them' },
    platform: {
      type: 'string',
      multiple: true,
      value: 'OS/ARCH',
      help: 'of an image of many only these; all without',
    },
    deadline: {
      type: 'string',
      value: 'TIME',
      help: 'when it is to be there: 10m, or a time; an hour without, 24h at most',
    },
    wait: { type: 'boolean', help: 'wait for the end, and fail if an edge lacks something' },
  },
  notes: `IMAGE is project/repository:tag, or …@digest, at the primary. Whoever administers the project may do it.
With --wait the exit code is 0 once all edges hold all of it, and 1 if one of them does not by the deadline.`,
  async run(options, [image = '']) {
    const target = readTarget(options)
    const { withAdminApi } = await import('../admin-api.ts')
    const { formatPreheat, readPreheat } = await import('./preheat/show.ts')
    const { setTimeout: delay } = await import('node:timers/promises')
    return withAdminApi(options, async (api) => {
      const { platform, deadline } = options
      const started = await api.call('/preheat', {
        method: 'POST',
        absent: `there is no image '${image}' at this primary, or it does not preheat`,
        body: {
          image,
          ...target,
          ...(platform.length > 0 && { platforms: platform }),
          ...(deadline !== undefined && { deadline }),
        },
      })
      const { id } = readPreheat(started.json)
      const path = `/preheat/${id}?page_size=100`
      const look = () => api.call(path, { absent: `the preheat ${id} is gone` })
      let seen = await look()
      while (options.wait && readPreheat(seen.json).status === 'Running') {
        await delay(pollMs)
        seen = await look()
      }
      const shown = readPreheat(seen.json)
      process.stdout.write(options.json ? `${seen.text.trimEnd()}\n` : formatPreheat(shown))
      return options.wait && shown.status !== 'Succeed' ? 1 : 0
    })
  },
})

/** @throws UsageError unless one of the three says which edges */
function readTarget({
  edge,
  site,
  group,
}: {
  readonly edge: readonly string[]
  readonly site: readonly string[]
  readonly group: string | undefined
}): object {
  const given = [edge.length > 0, site.length > 0, group !== undefined]
  if (given.filter(Boolean).length !== 1)
    throw new UsageError('preheat needs the edges: --edge NAME, --site SITE or --group ID')
  if (group !== undefined) {
    if (!/^[1-9]\d{0,8}$/.test(group))
      throw new UsageError("--group must be the number of a group: 'registries' of the API")
    return { registry_id: Number(group) }
  }
  return { edges: edge.length > 0 ? edge : { sites: site } }
}
