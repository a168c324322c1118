import { isRecord } from '../../../shared/config/record.ts'
import { defineCommand, UsageError } from '../../command-line.ts'
import { onOneLine } from '../../one-line.ts'
import { printAnswer } from '../edges/change.ts'
import { adminOptions } from '../edges/options.ts'

const purposes = ['root', 'log', 'jwt', 'edge-ca']

/** `outport keys rotate` */
export const rotate = defineCommand({
  name: 'keys rotate',
  summary: 'have a new key take the place of the one that signs',
  words: ['root|log|jwt|edge-ca'],
  options: {
    ...adminOptions,
    'at-once': {
      type: 'boolean',
      help: 'it signs from now on, for a key that was stolen: some pulls may fail for seconds',
    },
  },
  notes: `What the key before signed counts until it ends by itself; 'outport keys drop' ends it at once.`,
  async run(options, [purpose = '']) {
    if (!purposes.includes(purpose))
      throw new UsageError(`keys rotate needs one of ${purposes.join(', ')}, not '${purpose}'`)
    const { withAdminApi } = await import('../../admin-api.ts')
    return withAdminApi(options, async (api) => {
      const { text, json } = await api.call('/keys/rotate', {
        method: 'POST',
        body: { purpose, ...(options['at-once'] && { at_once: true }) },
        absent: 'this primary has no keys to rotate: check that --primary is an Outport primary',
      })
      const from = isRecord(json) ? json['signs_from'] : undefined
      const when = typeof from === 'string' ? `signs from ${onOneLine(from)} on` : 'signs now'
      printAnswer(text, { json: options.json, done: `The new ${purpose} key ${when}.` })
      return 0
    })
  },
})
