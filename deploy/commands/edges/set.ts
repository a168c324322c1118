import { defineCommand, UsageError } from '../../command-line.ts'
import { printAnswer } from './change.ts'
import { adminOptions, edgeOptions, edgePath, parseLabels, parseScope } from './options.ts'

/** `outport edges set` */
export const set = defineCommand({
  name: 'edges set',
  summary: 'change what an edge is called, where it stands, and what it may read',
  words: ['ID'],
  options: {
    ...adminOptions,
    name: { type: 'string', value: 'NAME', help: 'what people call it' },
    ...edgeOptions,
    'no-label': { type: 'string', multiple: true, value: 'KEY', help: 'take a label away' },
    'accept-people': { type: 'boolean', help: 'people may log in through it from now on' },
    'refuse-people': { type: 'boolean', help: 'only robots may, from now on' },
  },
  notes: `What is not named stays: --label adds or changes that one label, while --scope says all projects that it may read.`,
  async run(options, [id = '']) {
    const labels = parseLabels(options.label)
    const scope = parseScope(options)
    const acceptPeople = parsePeople(options['accept-people'], options['refuse-people'])
    const { name, site, region } = options
    const changes = {
      ...(name !== undefined && { name }),
      ...(site !== undefined && { site }),
      ...(region !== undefined && { region }),
      ...(scope !== undefined && { scope }),
      ...(acceptPeople !== undefined && { accept_people: acceptPeople }),
    }
    const changesLabels = options.label.length + options['no-label'].length > 0
    if (!changesLabels && Object.keys(changes).length === 0) {
      throw new UsageError(`edges set needs something to change, --label KEY=VALUE; see --help`)
    }
    const { readEdge, withAdminApi } = await import('../../admin-api.ts')
    return withAdminApi(options, async (api) => {
      const { path, absent } = edgePath(id)
      // The API takes all labels at once.
      const before = changesLabels ? readEdge((await api.call(path, { absent })).json).labels : {}
      const kept = Object.entries({ ...before, ...labels }).filter(
        ([key]) => !options['no-label'].includes(key),
      )
      const { text } = await api.call(path, {
        method: 'PUT',
        absent,
        body: { ...changes, ...(changesLabels && { labels: Object.fromEntries(kept) }) },
      })
      printAnswer(text, { json: options.json, done: `The edge '${id}' is changed.` })
      return 0
    })
  },
})

function parsePeople(accept: boolean, refuse: boolean): boolean | undefined {
  if (accept && refuse) {
    throw new UsageError('--accept-people and --refuse-people exclude each other')
  }
  if (accept) return true
  return refuse ? false : undefined
}
