import { defineCommand, withCommands } from '../command-line.ts'
import { configOptions } from './config-options.ts'
import { join } from './edge/join.ts'

/** `outport edge` */
export const edge = withCommands(
  defineCommand({
    name: 'edge',
    summary: 'a mirror next to the machines that pull',
    options: configOptions,
    notes: `A data folder that joined a primary by 'outport edge join' knows which edge it is and where its primary is; what the configuration
says of edge.id, edge.credential_file, edge.primary.url and edge.primary.ca goes before that.`,
    async run(options) {
      const { checkAlone, runAlone } = await import('../run-alone.ts')
      return options.check ? checkAlone('edge', options) : runAlone('edge', options)
    },
  }),
  [join],
)
